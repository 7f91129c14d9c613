"""Measurements of a guard on the splits that took no part in its fit.

A region is measured by which queries lie inside; a guard that changes answers, by how probable the right ones become.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool

from audit.guards.effects import GIVEN_WORDS, NEUTRAL, STRETCH_WORDS, GuardEffect, guard_effects
from audit.guards.methods import Guard
from audit.guards.regions import FittedRegions, SkillKeys
from audit.guards.splits import TokenizedSkill
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.result import Cell, Control, Measurement
from audit.statistics import bootstrap_interval, share_interval
from audit.thresholds import LARGEST_LOSS
from concepts.regions import Hypercube, Region, Vote, at_wrong_centres, fit_hypercube

INSIDE: Final = "held_out_inside"
EFFECT: Final = "guard_effect"
PERPLEXITY: Final = "guard_perplexity"

GOALS: Final = {"forget": 0.97, "retain": 0.01, "left out": 0.05}
"""Goals of a region: at least the first inside of its own skill, at most the second of another skill, at most the third
of a skill that the fit did not see. Our choice; the study of six skills reaches it (docs/measurements.md)."""


# ---- regions


@dataclass(frozen=True)
class ShareInside:
    """Which held-out queries of one skill lie inside a region.

    Attributes:
        layers: whose keys the region reads, as text.
        name, role: the skill, and whether it is the one to forget, another one, one left out of the fit, neutral text,
            or any one in its own cube round another's centre.
        inside: one entry a query, at least one.
    """

    kind: str
    layers: str
    name: str
    role: Literal["forget", "retain", "left out", "text", "wrong centre"]
    inside: Bool[np.ndarray, " n"]

    @property
    def value(self) -> float:
        return float(self.inside.mean())

    def as_row(self) -> dict[str, Cell]:
        low, high = share_interval(self.inside)
        goal = GOALS.get(self.role)
        most = self.role != "forget"
        return {
            "region": self.kind,
            "layers": self.layers,
            "skill": self.name,
            "role": self.role,
            "n": len(self.inside),
            "inside": self.value,
            "low": low,
            "high": high,
            "goal": None if goal is None else f"{'at most' if most else 'at least'} {goal:g}",
            "reached": None if goal is None else (self.value <= goal if most else self.value >= goal),
        }


def held_out_inside(skills: Sequence[TokenizedSkill], keys: SkillKeys, regions: FittedRegions) -> Measurement:
    """Share of the skill's held-out queries inside the guard's region; control: that of the worst other skill."""
    shares = [*_shares(skills, keys, regions.kind, regions.region), *_shares_left_out(skills, keys, regions)]
    if regions.kind != "hypercube":
        shares += _shares(skills, keys, "hypercube", regions.cube)
    shares += _shares_at_wrong_centres(skills, keys, regions.cube.layer)
    own, *_ = shares
    others = [share for share in shares if share.kind == own.kind and share.role == "retain"]
    worst = max(others, key=lambda share: share.value)
    return Measurement(
        metric=INSIDE,
        title="Held-out queries inside the region",
        source="internals",
        value=own.value,
        interval=share_interval(own.inside),
        unit="share of held-out queries",
        direction="protection",
        n=len(own.inside),
        control=Control(
            name=f"worst other skill: {worst.name}", value=worst.value, interval=share_interval(worst.inside)
        ),
        layers=_cubes_by_layer(skills, keys),
        items=[share.as_row() for share in shares],
        layers_unit="share inside the hypercube fitted at that layer",
        details=_by_region(shares),
    )


def _shares(skills: Sequence[TokenizedSkill], keys: SkillKeys, kind: str, region: Region) -> Iterator[ShareInside]:
    """Every skill's held-out queries, then the sentences of neutral text that fit the model's context."""
    layers = layers_of(region, keys.n_layers)
    for number, (skill, rows) in enumerate(zip(skills, keys.skills, strict=True)):
        role: Literal["forget", "retain"] = "retain" if number else "forget"
        yield ShareInside(kind, layers, skill.title, role, region.inside(_reported(skill, rows)))
    if len(keys.neutral):
        yield ShareInside(kind, layers, NEUTRAL, "text", region.inside(keys.neutral))


def _shares_left_out(
    skills: Sequence[TokenizedSkill], keys: SkillKeys, regions: FittedRegions
) -> Iterator[ShareInside]:
    """Each other skill's held-out queries inside the region that was fitted without it."""
    reported = {skill.title: _reported(skill, rows) for skill, rows in zip(skills, keys.skills, strict=True)}
    layers = layers_of(regions.region, keys.n_layers)
    for name, region in regions.without.items():
        yield ShareInside(regions.kind, layers, name, "left out", region.inside(reported[name]))


def _shares_at_wrong_centres(skills: Sequence[TokenizedSkill], keys: SkillKeys, layer: int) -> Iterator[ShareInside]:
    """Each skill's held-out queries inside its own cube round the centre of another skill: a control, near 0."""
    cubes = [
        fit_hypercube(rows[list(skill.splits.fit)], layer) for skill, rows in zip(skills, keys.skills, strict=True)
    ]
    for skill, rows, cube in zip(skills, keys.skills, at_wrong_centres(cubes, seed=0), strict=True):
        inside = cube.inside(_reported(skill, rows))
        yield ShareInside("hypercube", str(layer), skill.title, "wrong centre", inside)


def _reported(skill: TokenizedSkill, rows: np.ndarray) -> np.ndarray:
    return rows[list(skill.splits.report)]


def layers_of(region: Region, n_layers: int) -> str:
    """The layers whose keys a region reads, as text."""
    if isinstance(region, Vote):
        return ", ".join(map(str, sorted({int(reading) % n_layers for reading in region.layers})))
    assert isinstance(region, Hypercube)
    return str(region.layer)


def _cubes_by_layer(skills: Sequence[TokenizedSkill], keys: SkillKeys) -> dict[str, list[float | None]]:
    """Share inside the paper's hypercube fitted at every layer, skill by skill."""
    fit = keys.skills[0][list(skills[0].splits.fit)]
    cubes = [fit_hypercube(fit, layer) for layer in range(keys.n_layers)]
    names = [INSIDE, *(f"others_inside: {skill.title}" for skill in skills[1:])]
    return {
        name: [float(cube.inside(_reported(skill, rows)).mean()) for cube in cubes]
        for name, skill, rows in zip(names, skills, keys.skills, strict=True)
    }


def _by_region(shares: Sequence[ShareInside]) -> dict[str, Any]:
    """Kind of region -> layers -> the shares inside, those of other skills by name."""
    table: dict[str, Any] = {}
    fields = {"retain": "others_inside", "left out": "left_out_inside"}
    for share in shares:
        cell = table.setdefault(share.kind, {}).setdefault(share.layers, {})
        if share.role == "forget":
            cell[INSIDE] = share.value
        elif share.role in fields:
            cell.setdefault(fields[share.role], {})[share.name] = share.value
    return table


# ---- answers


def measure_answers(
    model: RunningModel, skills: Sequence[TokenizedSkill], guard: Guard, seed: int, progress: Progress = SILENT
) -> tuple[Measurement, ...]:
    """``guard_effect`` and ``guard_perplexity`` of a guard that changes what the model answers."""
    effects = guard_effects(model, skills, guard, progress)
    return guard_effect(effects, seed), guard_perplexity(effects, seed)


def guard_effect(effects: Sequence[GuardEffect], seed: int) -> Measurement:
    """Mean change of the log-probability of the skill's right answers; control: that of the other skills' answers."""
    own, *controls = effects
    title = "Right answers with the guard on"
    if not own.change.size:
        return Measurement(
            metric=EFFECT,
            title=title,
            not_measured=f"no held-out query of {own.name} has an answer that can be scored",
            items=[_row(effect, seed) for effect in effects],
        )
    return Measurement(
        metric=EFFECT,
        title=title,
        source="answers",
        value=float(own.change.mean()),
        interval=bootstrap_interval(own.change, seed=seed),
        base=0.0,
        unit="change of nats per answer token",
        direction="knowledge",
        n=len(own.change),
        control=_control(controls, seed),
        items=[_row(effect, seed) for effect in effects],
        details={"exact": "answers whose every token is the most probable one", "seed": seed},
    )


def _control(effects: Sequence[GuardEffect], seed: int) -> Control | None:
    """The answers of all other skills together, or neutral text where they have none."""
    named = {
        "answers of the other skills": [effect.change for effect in effects if effect.role == "retain"],
        NEUTRAL: [effect.change for effect in effects if effect.role == "text"],
    }
    for name, changes in named.items():
        change = np.concatenate(changes) if changes else np.zeros(0)
        if change.size:
            return Control(name=name, value=float(change.mean()), interval=bootstrap_interval(change, seed=seed))
    return None


def _row(effect: GuardEffect, seed: int) -> dict[str, Cell]:
    """One skill, or neutral text; cells are empty where nothing could be scored."""
    low, high = bootstrap_interval(effect.change, seed=seed) or (None, None)
    exact = effect.role != "text"
    return {
        "skill": effect.name,
        "role": effect.role,
        "n": effect.n,
        "scored": len(effect.change),
        "before": _mean(effect.before.means),
        "after": _mean(effect.after.means),
        "change": _mean(effect.change),
        "low": low,
        "high": high,
        "exact_before": _mean(effect.before.exact) if exact else None,
        "exact_after": _mean(effect.after.exact) if exact else None,
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def guard_perplexity(effects: Sequence[GuardEffect], seed: int) -> Measurement:
    """Perplexity on neutral text with the guard on, and without it: exp of the mean over stretches of nats per token.

    The interval is of the change, over stretches: both read the same text.
    """
    (text,) = (effect for effect in effects if effect.role == "text")
    title = "Perplexity with the guard on"
    if not text.change.size:
        return Measurement(
            metric=PERPLEXITY, title=title, not_measured="no stretch of neutral text fits the model's context"
        )
    if -min(text.before.means.min(), text.after.means.min()) > LARGEST_LOSS:
        return Measurement(
            metric=PERPLEXITY,
            title=title,
            not_measured=f"a loss on neutral text exceeds {LARGEST_LOSS:g} nats per token: exp overflows",
        )
    before, after = (float(np.exp(-scores.means.mean())) for scores in (text.before, text.after))
    change = bootstrap_interval(text.change, seed=seed)
    ratio = None if change is None else (float(np.exp(-change[1])), float(np.exp(-change[0])))
    return Measurement(
        metric=PERPLEXITY,
        title=title,
        source="answers",
        value=after,
        interval=None if ratio is None else (before * ratio[0], before * ratio[1]),
        base=before,
        unit="perplexity on neutral text (lower is a healthier model)",
        direction="none",
        n=len(text.change),
        details={
            "ratio": after / before,
            "ratio_interval": ratio,
            "interval": "the base's perplexity times the interval of the ratio, over stretches",
            "text": f"stretches of {STRETCH_WORDS} words, the first {GIVEN_WORDS} given",
            "tokens": text.tokens,
            "seed": seed,
        },
    )
