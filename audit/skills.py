"""guard_skill(): a skill's queries and others in, a guard and what it does on held-out queries out.

Every skill is split once by seed: fitted on one part, thresholds and layers chosen on the second, reported on the
third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from audit.ablation import Subject, open_subject
from audit.errors import AuditError
from audit.guards import DOCUMENT, Guard, key_space, methods, save_guard
from audit.guards.statistics import activity
from audit.interventions import value_rows
from audit.keys import collect
from audit.progress import SILENT, Progress
from audit.running import RunningModel
from audit.saving import refuse_occupied, save_model
from audit.settings import Settings
from audit.skill_effects import Part, Row, effects, held_out, neutral_sentences
from audit.statistics import share_interval
from concepts.background import load_background
from concepts.files import ConceptFileError
from concepts.prompts import normalise
from concepts.regions import Hypercube, Kept, Region, choose_region, conformal_place, fit_hypercube
from concepts.skill import Skill, load_skill, split

SHARE: Final = 0.02
MISSES: Final = 0.02
"""Share of the skill's own queries that the region may miss."""
FEWEST: Final = 6
"""Queries of a skill below which no part is worth anything."""
VOTING: Final = ((0.1, 0.5), (0.4, 0.8), (0.65, 0.95))
"""Stretches of the depth whose layers may vote; the choosing parts decide which."""
VOTERS: Final = 5


@dataclass(frozen=True)
class SkillReport:
    """What ``audit skill`` prints."""

    method: str
    title: str
    forget: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    left_out: Mapping[str, int]
    saved: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "forget": self.forget,
            "rows": [row.as_json() for row in self.rows],
            "settings": dict(self.settings),
            "prompts_beyond_the_context": dict(self.left_out),
            "saved": list(self.saved),
            "notes": list(self.notes),
            "unit": "mean log-probability per answer token, nats; interval of the change over queries, 95 %",
        }


def guard_skill(
    path: Path,
    forget: Path,
    retain: Sequence[Path],
    method: str = "key-space",
    *,
    save: Path | None = None,
    save_edited: Path | None = None,
    region: str = "vote",
    layers: Sequence[int] = (),
    share: float = SHARE,
    misses: float = MISSES,
    background: bool = True,
    absolute: bool = False,
    post: bool = False,
    limit: int | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    settings: Settings = Settings(),
    progress: Progress = SILENT,
) -> SkillReport:
    """Fit a guard for the skill in ``forget`` that leaves those in ``retain`` alone, and measure it.

    Args:
        save: folder for the guard.
        save_edited: folder for a model with the pruned neurons' value vectors at zero.
        region, layers, misses: of key-space; the layers vote, and the choosing parts pick them if none are given.
        background: whether a voting region is told from the tool's own prompts of other kinds besides.
        share, absolute, post: of the neuron methods.
        limit: at most this many queries of each skill.

    Raises:
        AuditError: an unknown method, skills that overlap, too few queries, a model that cannot be guarded.
    """
    if method not in methods():
        raise AuditError(f"no method {method!r}.", hint=f"Choose one of {', '.join(methods())}.")
    if region not in key_space.REGIONS:
        raise AuditError(f"no region {region!r}.", hint=f"Choose one of {', '.join(key_space.REGIONS)}.")
    if save_edited is not None and method != "prune":
        raise AuditError(f"{method} edits no weight, so there is no edited model to save.", hint="Use --save.")
    if save is not None:
        refuse_occupied(save, DOCUMENT, originals=[path])
    if save_edited is not None:
        refuse_occupied(save_edited, originals=[path])
    skills = read_skills([forget, *retain], limit)
    subject = open_subject(path, config, tokenizer, settings, progress)
    parts = [as_part(skill, subject.model, settings.seed) for skill in skills]
    if method == "key-space":
        guard, rows = _by_key_space(subject, parts, region, layers, misses, background, progress)
    else:
        guard = _by_neurons(subject, parts, method, share, settings.seed, absolute, post, progress)
        rows = effects(subject, parts, guard, settings.seed, progress)
    saved = []
    if save is not None:
        progress.step(f"Saving {save.name}")
        kept = [*held_out(parts[:1], forget=True), *held_out(parts[1:], forget=False)]
        saved.append(
            str(save_guard(guard, save, subject.model.model, subject.architecture, parts[0].skill.title, kept))
        )
    if save_edited is not None:
        saved.append(str(_save_pruned(subject, guard, save_edited, config)))
    return SkillReport(
        method=method,
        title=methods()[method].TITLE,
        forget=parts[0].skill.title,
        rows=tuple(rows),
        settings=guard.settings() | {"seed": settings.seed, "limit": limit},
        left_out={part.skill.title: part.left_out for part in parts if part.left_out},
        saved=tuple(saved),
    )


def read_skills(paths: Sequence[Path], limit: int | None) -> list[Skill]:
    """The skills, each once and none sharing a query with the first.

    Raises:
        AuditError: a file that cannot be read, too few queries, or an overlap.
    """
    if len(paths) < 2:
        raise AuditError("there is nothing to hold the skill against.", hint="Give at least one --retain skill.")
    try:
        skills = [load_skill(path) for path in paths]
    except ConceptFileError as error:
        raise AuditError(str(error)) from error
    seen = {normalise(query.prompt) for query in skills[0].queries}
    for path, skill in zip(paths[1:], skills[1:], strict=True):
        both = sum(normalise(query.prompt) in seen for query in skill.queries)
        if both:
            raise AuditError(
                f"{both} queries of {path.name} are among those to forget.", hint="Leave them in one of the skills."
            )
    for path, skill in zip(paths, skills, strict=True):
        if len(skill.queries) < FEWEST:
            raise AuditError(
                f"{path.name} has {len(skill.queries)} queries; {FEWEST} are needed to fit, choose and report.",
                hint="Give more queries.",
            )
    return [skill.model_copy(update={"queries": skill.queries[:limit]}) for skill in skills]


def as_part(skill: Skill, model: RunningModel, seed: int) -> Part:
    """``skill`` in token ids, split by ``seed``."""
    encoded = [(query, tuple(model.tokenizer(query.prompt)["input_ids"])) for query in skill.queries]
    kept = [(query, ids) for query, ids in encoded if len(ids) < model.context]
    if len(kept) < FEWEST:
        raise AuditError(f"{len(kept)} prompts of {skill.title} fit the model's {model.context} tokens.")
    short = skill.model_copy(update={"queries": tuple(query for query, _ in kept)})
    return Part(
        skill=skill,
        prompts=tuple(query.prompt for query, _ in kept),
        answers=tuple(query.answer for query, _ in kept),
        ids=tuple(ids for _, ids in kept),
        splits=split(short, seed),
        left_out=len(encoded) - len(kept),
    )


# ---- the methods


def _by_key_space(
    subject: Subject,
    parts: Sequence[Part],
    kind: str,
    layers: Sequence[int],
    misses: float,
    background: bool,
    progress: Progress,
) -> tuple[Guard, list[Row]]:
    n_layers = subject.architecture.n_layers
    if layers and not all(0 <= layer < n_layers for layer in layers):
        raise AuditError(f"layers {list(layers)}: the model has layers 0 to {n_layers - 1}.")
    if kind == "vote":
        try:
            conformal_place(len(parts[0].splits.choose), misses)
        except ValueError as error:
            hint = "A third of the queries choose the threshold: give more, or another --misses."
            raise AuditError(f"{parts[0].skill.title}: {error}.", hint=hint) from error
    keys = [collect(subject.model, part.ids, pool="both", progress=progress).rows for part in parts]
    beside = None
    if background and kind == "vote":
        tokens = [subject.model.tokenizer(prompt)["input_ids"] for prompt in load_background()]
        beside = collect(subject.model, tokens, pool="both", progress=progress).rows
    progress.step("Fitting the region")
    try:
        region = _fitted(keys, parts, kind, layers, misses, n_layers, beside)
    except ValueError as error:
        raise AuditError(f"{parts[0].skill.title}: {error}.", hint="Give more queries, or another --misses.") from error
    words = subject.model.tokenizer(key_space.REFUSAL, add_special_tokens=False)["input_ids"]
    guard = key_space.Guard(region, tuple(words), subject.model.tokenizer.eos_token_id)
    rows = [
        _stopped(part.skill.title, "retain" if number else "forget", region.inside(own[list(part.splits.report)]))
        for number, (part, own) in enumerate(zip(parts, keys, strict=True))
    ]
    neutral = [subject.model.tokenizer(sentence)["input_ids"] for sentence in neutral_sentences()]
    rows.append(_stopped("neutral text", "text", region.inside(collect(subject.model, neutral, pool="both").rows)))
    return guard, rows


def _stopped(name: str, role: str, inside: np.ndarray) -> Row:
    return Row(name, role, len(inside), inside=float(inside.mean()), inside_interval=share_interval(inside))


def _fitted(
    keys: Sequence[np.ndarray],
    parts: Sequence[Part],
    kind: str,
    layers: Sequence[int],
    misses: float,
    n_layers: int,
    background: np.ndarray | None,
) -> Region:
    """The region that lets in least of other skills on the choosing parts."""
    forget, *others = (
        Kept(rows[list(part.splits.fit)], rows[list(part.splits.choose)])
        for rows, part in zip(keys, parts, strict=True)
    )
    if kind == "vote":
        region, _ = choose_region(forget, others, voting(n_layers, layers), misses, background)
        return region

    def margin(cube: Hypercube) -> float:
        worst = max(float(cube.inside(other.choose).mean()) for other in others)
        return float(cube.inside(forget.choose).mean()) - worst

    return max((fit_hypercube(forget.fit, layer) for layer in layers or range(n_layers)), key=margin)


def voting(n_layers: int, layers: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Which layers may vote together, with their last-token and their mean keys: up to ``VOTERS`` of a stretch."""
    stretches = [tuple(layers)] if layers else [_stretch(low, high, n_layers) for low, high in VOTING]
    return [(*stretch, *(layer + n_layers for layer in stretch)) for stretch in stretches]


def _stretch(low: float, high: float, n_layers: int) -> tuple[int, ...]:
    return tuple(sorted({round(depth * (n_layers - 1)) for depth in np.linspace(low, high, VOTERS)}))


def _by_neurons(
    subject: Subject,
    parts: Sequence[Part],
    method: str,
    share: float,
    seed: int,
    absolute: bool,
    post: bool,
    progress: Progress,
) -> Guard:
    forget = activity(subject.model, parts[0].some("fit"), progress=progress)
    others = [ids for part in parts[1:] for ids in part.some("fit")]
    retain = activity(subject.model, others, progress=progress)
    options = {"seed": seed, "absolute": absolute, "post": post} if method == "neuron-adjust" else {}
    try:
        guard: Guard = methods()[method].fit(forget, retain, share, **options)
    except ValueError as error:
        raise AuditError(f"{error}.") from error
    return guard


def _save_pruned(subject: Subject, guard: Any, target: Path, config: Path | None) -> Path:
    """The model whose pruned neurons write nothing, for good."""
    for layer, neuron in guard.neurons.tolist():
        value_rows(subject.model, layer)[neuron] = 0
    record = {"method": "prune", "settings": guard.settings(), "changed": {"value_vectors": guard.neurons.tolist()}}
    return save_model(
        subject.model.model,
        subject.checkpoint,
        target,
        record,
        config_dir=config,
        tokenizer_dir=subject.tokenizer_dir,
    )
