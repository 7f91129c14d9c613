"""Regions of key space fitted to skills: keys from one pass, the guard's region, and those it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from audit.errors import AuditError
from audit.guards.splits import TokenizedSkill
from audit.models.keys import collect_each
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from concepts.concept import neutral_text
from concepts.jailbreaks import SENTENCE_END
from concepts.region_choice import SplitKeys, VoteSettings, choose_region, fit_with, load_background
from concepts.regions import Hypercube, Region, fit_hypercube

VOTING_DEPTHS: Final = ((0.1, 0.5), (0.4, 0.8), (0.65, 0.95))
"""Ranges of relative depth whose layers may vote; the choosing splits decide which."""
VOTERS: Final = 5
"""At most so many layers of a range vote."""


@dataclass(frozen=True)
class SkillKeys:
    """Last-token keys of all layers and then mean keys of all layers, ``[n, 2 n_layers, d_mlp]`` float16 each.

    Attributes:
        skills: of every skill's prompts, the one to forget first.
        neutral: of the sentences of neutral text.
        background: of the tool's prompts of other kinds, where the region is fitted against them.
    """

    skills: tuple[np.ndarray, ...]
    neutral: np.ndarray
    background: np.ndarray | None = None

    @property
    def n_layers(self) -> int:
        n_readings: int = self.neutral.shape[1]
        return n_readings // 2


@dataclass(frozen=True)
class FittedRegions:
    """A guard's region and those that it is compared with.

    Attributes:
        kind: the guard's, ``"vote"`` or ``"hypercube"``.
        region: the guard's.
        cube: the paper's; the same where that is the guard's.
        without: title of another skill -> the region fitted in the same way without it.
    """

    kind: str
    region: Region
    cube: Hypercube
    without: Mapping[str, Region] = field(default_factory=dict)


def read_keys(
    model: RunningModel, skills: Sequence[TokenizedSkill], background: bool, progress: Progress = SILENT
) -> SkillKeys:
    """Keys of all skills, of neutral text and, if wanted, of the background, from one pass.

    Raises:
        ModelError: a key that is not a finite number.
    """
    sets = [list(skill.ids) for skill in skills]
    for texts in (_neutral_sentences(), load_background() if background else ()):
        sets.append([tuple(model.tokenizer(text)["input_ids"]) for text in texts])
    *of_skills, of_neutral, of_background = collect_each(model, sets, pool="both", progress=progress)
    return SkillKeys(tuple(of_skills), of_neutral, of_background if background else None)


def fit_regions(
    skills: Sequence[TokenizedSkill], keys: SkillKeys, kind: str, layers: Sequence[int], misses: float
) -> FittedRegions:
    """The region of the first skill that includes the fewest choosing queries of the others.

    Args:
        kind: ``"vote"`` or ``"hypercube"``.
        layers: that vote, or among which the cube's is chosen; by the choosing splits if empty.
        misses: the share of the skill that a vote may miss.

    Raises:
        AuditError: too few queries.
    """
    forget, *others = (
        SplitKeys(rows[list(skill.splits.fit)], rows[list(skill.splits.choose)])
        for rows, skill in zip(keys.skills, skills, strict=True)
    )
    cube = best_cube(forget, others, layers or range(keys.n_layers))
    if kind == "hypercube":
        return FittedRegions(kind, cube, cube)
    try:
        region, settings = choose_region(forget, others, voting_layers(keys.n_layers, layers), misses, keys.background)
    except ValueError as error:
        raise AuditError(
            f"{skills[0].title}: {error}.", hint="Give more queries, or another value of misses."
        ) from error
    named = {skill.title: kept for skill, kept in zip(skills[1:], others, strict=True)}
    return FittedRegions(kind, region, cube, regions_without(forget, named, settings, misses, keys))


def regions_without(
    forget: SplitKeys, others: Mapping[str, SplitKeys], settings: VoteSettings, misses: float, keys: SkillKeys
) -> dict[str, Region]:
    """The region fitted with ``settings`` without each other skill in turn; empty for fewer than two others."""
    if len(others) < 2:
        return {}
    return {
        title: fit_with(
            forget, [kept for name, kept in others.items() if name != title], settings, misses, keys.background
        )
        for title in others
    }


def best_cube(forget: SplitKeys, others: Sequence[SplitKeys], layers: Sequence[int]) -> Hypercube:
    """The paper's hypercube at the layer that best separates the skill's choosing queries from those of the others."""

    def margin(cube: Hypercube) -> float:
        worst = max(float(cube.inside(other.choose).mean()) for other in others)
        return float(cube.inside(forget.choose).mean()) - worst

    return max((fit_hypercube(forget.fit, layer) for layer in layers), key=margin)


def voting_layers(n_layers: int, layers: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Sets of layers that may vote together, with their last-token and their mean keys: up to ``VOTERS`` of a range."""
    ranges = [tuple(layers)] if layers else [spread(low, high, n_layers) for low, high in VOTING_DEPTHS]
    return [(*chosen, *(layer + n_layers for layer in chosen)) for chosen in ranges]


def spread(low: float, high: float, n_layers: int) -> tuple[int, ...]:
    """Up to ``VOTERS`` layers at equal distances between two relative depths."""
    return tuple(sorted({round(depth * (n_layers - 1)) for depth in np.linspace(low, high, VOTERS)}))


def _neutral_sentences() -> list[str]:
    """The sentences of the neutral text: prompts that need no skill in particular."""
    return SENTENCE_END.split(" ".join(neutral_text().split()))
