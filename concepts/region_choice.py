"""The choice of a vote's layers and border, by what it lets in of other skills: those of the fit, and those left out.

See ``concepts.regions`` for the regions themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from concepts.files import read_toml
from concepts.regions import Region, Vote, fit_region

SLACKS = (0.5, 0.25, 0.0)
"""How far the border may move into the gap between the skill and the others, as shares of it, the widest first."""

BACKGROUND = Path(__file__).parent / "data" / "background_prompts.toml"
"""Prompts of many kinds that a region is fitted against, in addition to the other skills."""

UNSEEN_INSIDE = 0.025
"""Share of a skill unseen by the fit that may be inside when a border is chosen: half of the share aimed at."""


@dataclass(frozen=True)
class SplitKeys:
    """One skill's keys: to fit on, and to choose settings with."""

    fit: Float[np.ndarray, "n_fit n_layers d_mlp"]
    choose: Float[np.ndarray, "n_choose n_layers d_mlp"]


class VoteSettings(NamedTuple):
    """The layers that vote, and the slack of the border: how far it moves into the gap, as one of ``SLACKS``."""

    layers: tuple[int, ...]
    slack: float


def choose_region(
    forget: SplitKeys,
    others: Sequence[SplitKeys],
    candidates: Sequence[tuple[int, ...]],
    miss_rate: float = 0.02,
    background: Float[np.ndarray, "n_background n_layers d_mlp"] | None = None,
) -> tuple[Vote, VoteSettings]:
    """The region whose layers and slack let in the smallest share of other skills.

    The share is the worst other skill's, plus that of the worst skill left out of the fit as far as it exceeds
    ``UNSEEN_INSIDE``; both are measured on the choosing parts. Between equal regions the widest border is chosen.

    Args:
        candidates: sets of layers that may vote together.
        background: keys of prompts that need none of the skills; the separator is fitted against them too.

    Raises:
        ValueError: no candidates, or as ``fit_region``.
    """
    best: tuple[tuple[float, float], Vote, VoteSettings] | None = None
    for layers in candidates:
        whole = fit_with(forget, others, VoteSettings(layers, 0.0), miss_rate, background)
        without = _each_left_out(forget, others, layers, miss_rate, background)
        for slack in SLACKS:
            region = widened(whole, others, slack)
            harm = max(_share(region, other) for other in others)
            unseen = [_share(widened(fitted, rest, slack), other) for fitted, rest, other in without]
            harm += max(max(unseen, default=0.0) - UNSEEN_INSIDE, 0.0)
            if best is None or (harm, -slack) < best[0]:
                best = (harm, -slack), region, VoteSettings(layers, slack)
    if best is None:
        raise ValueError("there are no layers to choose from")
    _, region, settings = best
    return region, settings


def _each_left_out(
    forget: SplitKeys,
    others: Sequence[SplitKeys],
    layers: tuple[int, ...],
    miss_rate: float,
    background: Float[np.ndarray, "n_background n_layers d_mlp"] | None,
) -> list[tuple[Vote, list[SplitKeys], SplitKeys]]:
    """For each other skill: the region fitted without it, the skills it was fitted against, and the skill itself."""
    if len(others) < 2:  # nothing would be left to fit against
        return []
    rests = [([*others[:at], *others[at + 1 :]], other) for at, other in enumerate(others)]
    return [
        (fit_with(forget, rest, VoteSettings(layers, 0.0), miss_rate, background), rest, other) for rest, other in rests
    ]


def fit_with(
    forget: SplitKeys,
    others: Sequence[SplitKeys],
    settings: VoteSettings,
    miss_rate: float = 0.02,
    background: Float[np.ndarray, "n_background n_layers d_mlp"] | None = None,
) -> Vote:
    """The region with the layers and slack of ``settings``; ``background`` as in ``choose_region``."""
    rows = np.concatenate([other.fit for other in others] + ([] if background is None else [background]))
    region = fit_region(forget.fit, rows, forget.choose, settings.layers, miss_rate=miss_rate)
    return widened(region, others, settings.slack)


def widened(region: Vote, others: Sequence[SplitKeys], slack: float) -> Vote:
    """``region`` with its border moved by ``slack`` of the distance to the nearest choosing query of other skills.

    If such a query is inside, the border stays. A wider border never misses more of the skill's prompts.
    """
    nearest = max(float(region.score(other.choose).max()) for other in others)
    return replace(region, threshold=region.threshold - slack * max(-nearest, 0.0))


def _share(region: Region, other: SplitKeys) -> float:
    return float(region.inside(other.choose).mean())


@cache
def load_background() -> tuple[str, ...]:
    """All prompts of ``BACKGROUND``."""
    return tuple(prompt for kind in read_toml(BACKGROUND).values() for prompt in kind["prompts"])
