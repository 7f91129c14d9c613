"""What was measured of a guard, as measurements: a region by who lies inside, the other methods by what answers lose.

Everything is read on the parts that took no part in the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from audit.guards.effects import GIVEN, NEUTRAL, STRETCH, Effect
from audit.guards.regions import Regions, SkillKeys
from audit.guards.splits import Part
from audit.metrics.answers.perplexity import LARGEST
from audit.result import Cell, Control, Measurement
from audit.statistics import bootstrap_interval, share_interval
from concepts.regions import Hypercube, Region, Vote, fit_hypercube

INSIDE: Final = "held_out_inside"
EFFECT: Final = "guard_effect"
PERPLEXITY: Final = "guard_perplexity"

GOALS: Final = {"forget": 0.97, "retain": 0.01, "left out": 0.05}
"""Wanted of a region: at least the first inside of its skill, at most the others of other skills, the last where the
fit never saw them. Our choice; the study of six skills reaches it (docs/measurements.md)."""


# ---- regions


@dataclass(frozen=True)
class Share:
    """Which held-out queries of one skill lie inside a region: ``inside`` ``[n]`` bool, n at least 1."""

    kind: str
    layers: str
    name: str
    role: str
    inside: np.ndarray

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


def held_out_inside(parts: Sequence[Part], keys: SkillKeys, regions: Regions) -> Measurement:
    """Share of the skill's held-out queries inside the guard's region, against the worst other skill's."""
    shares = [*_shares(parts, keys, regions.kind, regions.region), *_strangers(parts, keys, regions)]
    if regions.kind != "hypercube":
        shares += _shares(parts, keys, "hypercube", regions.cube)
    own, *_ = shares
    others = [share for share in shares if share.kind == own.kind and share.role == "retain"]
    worst = max(others, key=lambda share: share.value)
    return Measurement(
        metric=INSIDE,
        title="Held-out queries inside the region",
        value=own.value,
        interval=share_interval(own.inside),
        unit="share of held-out queries",
        direction="protection",
        n=len(own.inside),
        control=Control(
            name=f"worst other skill: {worst.name}", value=worst.value, interval=share_interval(worst.inside)
        ),
        layers=_by_layer(parts, keys),
        items=[share.as_row() for share in shares],
        details=_by_method(shares) | {"layers": "share inside the hypercube fitted at that layer"},
    )


def _shares(parts: Sequence[Part], keys: SkillKeys, kind: str, region: Region) -> list[Share]:
    """Every skill's held-out queries, then neutral text as far as it fits the model's context."""
    layers = layers_of(region, keys.n_layers)
    found = [
        Share(kind, layers, part.title, "retain" if number else "forget", region.inside(_reported(part, rows)))
        for number, (part, rows) in enumerate(zip(parts, keys.parts, strict=True))
    ]
    if len(keys.neutral):
        found.append(Share(kind, layers, NEUTRAL, "text", region.inside(keys.neutral)))
    return found


def _strangers(parts: Sequence[Part], keys: SkillKeys, regions: Regions) -> list[Share]:
    """Each other skill's held-out queries inside the region that was fitted without it."""
    rows = {part.title: _reported(part, rows) for part, rows in zip(parts, keys.parts, strict=True)}
    layers = layers_of(regions.region, keys.n_layers)
    return [
        Share(regions.kind, layers, name, "left out", region.inside(rows[name]))
        for name, region in regions.without.items()
    ]


def _reported(part: Part, rows: np.ndarray) -> np.ndarray:
    return rows[list(part.splits.report)]


def layers_of(region: Region, n_layers: int) -> str:
    """The layers whose keys a region reads, in words."""
    if isinstance(region, Vote):
        return ", ".join(map(str, sorted({int(reading) % n_layers for reading in region.layers})))
    assert isinstance(region, Hypercube)
    return str(region.layer)


def _by_layer(parts: Sequence[Part], keys: SkillKeys) -> dict[str, list[float | None]]:
    """The paper's hypercube fitted at every layer: who is inside, skill by skill."""
    fit = keys.parts[0][list(parts[0].splits.fit)]
    cubes = [fit_hypercube(fit, layer) for layer in range(keys.n_layers)]
    names = [INSIDE, *(f"others_inside: {part.title}" for part in parts[1:])]
    return {
        name: [float(cube.inside(_reported(part, rows)).mean()) for cube in cubes]
        for name, part, rows in zip(names, parts, keys.parts, strict=True)
    }


def _by_method(shares: Sequence[Share]) -> dict[str, Any]:
    """Kind of region -> layers -> the shares inside, those of other skills by name."""
    found: dict[str, Any] = {}
    fields = {"retain": "others_inside", "left out": "left_out_inside"}
    for share in shares:
        at = found.setdefault(share.kind, {}).setdefault(share.layers, {})
        if share.role == "forget":
            at[INSIDE] = share.value
        elif share.role in fields:
            at.setdefault(fields[share.role], {})[share.name] = share.value
    return found


# ---- answers


def guard_effect(effects: Sequence[Effect], seed: int) -> Measurement:
    """Change of the log-probability of the skill's right answers, against that of other skills' answers."""
    own, *beside = effects
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
        value=float(own.change.mean()),
        interval=bootstrap_interval(own.change, seed=seed),
        base=0.0,
        unit="change of nats per answer token",
        direction="knowledge",
        n=len(own.change),
        control=_others(beside, seed),
        items=[_row(effect, seed) for effect in effects],
        details={"exact": "answers whose every token is the most probable one", "seed": seed},
    )


def _others(beside: Sequence[Effect], seed: int) -> Control | None:
    """All other skills' answers together; neutral text where these have none."""
    named = {
        "answers of the other skills": [effect.change for effect in beside if effect.role == "retain"],
        NEUTRAL: [effect.change for effect in beside if effect.role == "text"],
    }
    for name, changes in named.items():
        change = np.concatenate(changes) if changes else np.zeros(0)
        if change.size:
            return Control(name=name, value=float(change.mean()), interval=bootstrap_interval(change, seed=seed))
    return None


def _row(effect: Effect, seed: int) -> dict[str, Cell]:
    """One skill, or neutral text; cells are empty where nothing could be scored."""
    row: dict[str, Cell] = {"skill": effect.name, "role": effect.role, "n": effect.n, "scored": len(effect.change)}
    known = bool(effect.change.size)
    low, high = (bootstrap_interval(effect.change, seed=seed) if known else None) or (None, None)
    row |= {name: float(getattr(effect, name).mean()) if known else None for name in ("before", "after", "change")}
    row |= {"low": low, "high": high}
    exact = known and effect.role != "text"
    return row | {
        name: float(getattr(effect, name).mean()) if exact else None for name in ("exact_before", "exact_after")
    }


def guard_perplexity(effects: Sequence[Effect], seed: int) -> Measurement:
    """Perplexity on neutral text with the guard on, and without it: exp of the mean over stretches of nats per token.

    The interval is of the change, over stretches: both read the same text.
    """
    (text,) = (effect for effect in effects if effect.role == "text")
    title = "Perplexity with the guard on"
    if not text.change.size:
        return Measurement(
            metric=PERPLEXITY, title=title, not_measured="no stretch of neutral text fits the model's context"
        )
    if -min(text.before.min(), text.after.min()) > LARGEST:
        return Measurement(
            metric=PERPLEXITY,
            title=title,
            not_measured=f"a loss on neutral text exceeds {LARGEST:g} nats per token: exp overflows",
        )
    before, after = (float(np.exp(-found.mean())) for found in (text.before, text.after))
    change = bootstrap_interval(text.change, seed=seed)
    ratio = None if change is None else (float(np.exp(-change[1])), float(np.exp(-change[0])))
    return Measurement(
        metric=PERPLEXITY,
        title=title,
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
            "text": f"stretches of {STRETCH} words, the first {GIVEN} given",
            "tokens": text.tokens,
            "seed": seed,
        },
    )
