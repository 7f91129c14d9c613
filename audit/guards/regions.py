"""Key Space Detection fitted to skills: all keys from one pass, the region of one, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from audit.errors import AuditError
from audit.guards.effects import neutral_sentences
from audit.guards.splits import Part
from audit.models.keys import collect_each
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from concepts.background import load_background
from concepts.regions import Choice, Hypercube, Kept, Region, choose_region, fit_hypercube, region_of

VOTING: Final = ((0.1, 0.5), (0.4, 0.8), (0.65, 0.95))
"""Stretches of the depth whose layers may vote; the choosing parts decide which."""
VOTERS: Final = 5


@dataclass(frozen=True)
class SkillKeys:
    """Last-token keys of all layers and then mean keys of all layers, ``[n, 2 n_layers, d_mlp]`` float16 each.

    Attributes:
        parts: of every skill's prompts, the one to forget first.
        neutral: of the sentences of neutral text.
        background: of the tool's prompts of other kinds, where they are to be told from.
    """

    parts: tuple[np.ndarray, ...]
    neutral: np.ndarray
    background: np.ndarray | None = None

    @property
    def n_layers(self) -> int:
        n_readings: int = self.neutral.shape[1]
        return n_readings // 2


@dataclass(frozen=True)
class Regions:
    """What was fitted.

    Attributes:
        kind: the guard's, ``"vote"`` or ``"hypercube"``.
        region: the guard's.
        cube: the paper's, the same where that is the guard's.
        without: title of another skill -> the region fitted in the same way without it.
    """

    kind: str
    region: Region
    cube: Hypercube
    without: Mapping[str, Region] = field(default_factory=dict)


def read_keys(model: RunningModel, parts: Sequence[Part], background: bool, progress: Progress = SILENT) -> SkillKeys:
    """One pass over all skills, neutral text and, where it is wanted, the background.

    Raises:
        ModelError: a key that is not a finite number.
    """
    sets = [list(part.ids) for part in parts]
    for texts in (neutral_sentences(), load_background() if background else ()):
        sets.append([tuple(model.tokenizer(text)["input_ids"]) for text in texts])
    *own, neutral, beside = collect_each(model, sets, pool="both", progress=progress)
    return SkillKeys(tuple(own), neutral, beside if background else None)


def fit_regions(parts: Sequence[Part], keys: SkillKeys, kind: str, layers: Sequence[int], misses: float) -> Regions:
    """The region of the first skill that lets in least of the others on the choosing parts.

    Args:
        kind: ``"vote"`` or ``"hypercube"``.
        layers: that vote, or among which the cube's is chosen; by the choosing parts if empty.
        misses: the share of the skill that a vote may miss.

    Raises:
        AuditError: too few queries.
    """
    forget, *others = (
        Kept(rows[list(part.splits.fit)], rows[list(part.splits.choose)])
        for rows, part in zip(keys.parts, parts, strict=True)
    )
    cube = best_cube(forget, others, layers or range(keys.n_layers))
    if kind == "hypercube":
        return Regions(kind, cube, cube)
    try:
        region, choice = choose_region(forget, others, voting(keys.n_layers, layers), misses, keys.background)
    except ValueError as error:
        raise AuditError(f"{parts[0].title}: {error}.", hint="Give more queries, or another --misses.") from error
    titles = [part.title for part in parts[1:]]
    return Regions(kind, region, cube, left_out(forget, dict(zip(titles, others, strict=True)), choice, misses, keys))


def left_out(
    forget: Kept, others: Mapping[str, Kept], choice: Choice, misses: float, keys: SkillKeys
) -> dict[str, Region]:
    """The region fitted with ``choice`` without each other skill in turn; none where nothing would be left."""
    if len(others) < 2:
        return {}
    return {
        title: region_of(
            forget, [kept for name, kept in others.items() if name != title], choice, misses, keys.background
        )
        for title in others
    }


def best_cube(forget: Kept, others: Sequence[Kept], layers: Sequence[int]) -> Hypercube:
    """The paper's hypercube at the layer where the skill's choosing queries stand out most."""

    def margin(cube: Hypercube) -> float:
        worst = max(float(cube.inside(other.choose).mean()) for other in others)
        return float(cube.inside(forget.choose).mean()) - worst

    return max((fit_hypercube(forget.fit, layer) for layer in layers), key=margin)


def voting(n_layers: int, layers: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Which layers may vote together, with their last-token and their mean keys: up to ``VOTERS`` of a stretch."""
    stretches = [tuple(layers)] if layers else [_stretch(low, high, n_layers) for low, high in VOTING]
    return [(*stretch, *(layer + n_layers for layer in stretch)) for stretch in stretches]


def _stretch(low: float, high: float, n_layers: int) -> tuple[int, ...]:
    return tuple(sorted({round(depth * (n_layers - 1)) for depth in np.linspace(low, high, VOTERS)}))
