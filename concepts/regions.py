"""A skill's region in key space: which prompts need the skill, told from their key vectors alone.

Two regions. ``Hypercube`` is the paper's (Li, Sun and Weng 2025, Key Space Detection), in closed form: per dimension
within k standard deviations of the mean, k just large enough for every query of the fit. ``Vote`` joins, at several
layers, a regularised linear separator against other skills with a distance to the skill's own subspace, so that
prompts unlike either side stay outside; its threshold is a conformal quantile of queries that were not fitted. What
keeps a skill that the fit never saw outside, measured on SmolLM2 (benchmarks/results/skill_regions.json), is the mean
key beside the last token's, without which Spanish lies inside German, and a background of other prompts to be told
from, without which mathematics told in English lies inside English.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

RIDGE = 0.1
"""Of the separator: share of the mean eigenvalue of the Gram matrix that is added to all of them."""

SLACKS = (0.5, 0.25, 0.0)
"""Shares of the gap between the skill and the others that the border may take, the widest first."""

STRANGERS = 0.025
"""Share of a skill that the fit never saw which may lie inside, where borders are chosen: half of what is wanted."""

KEPT = 0.9
"""Of the subspace: share of the fit's variance that its directions carry."""


class Region(Protocol):
    """A part of key space. Keys are ``[n, n_layers, d_mlp]``, all layers of the model, counted from 0.

    Mean keys of all layers may follow the last-token keys of all layers; they count as further layers.
    """

    def score(self, keys: np.ndarray) -> np.ndarray:
        """How far inside each prompt lies ``[n]`` float64: 0 on the border, above it inside."""

    def inside(self, keys: np.ndarray) -> np.ndarray:
        """``score >= 0`` ``[n]`` bool."""

    def shaped(self, d_mlp: int) -> bool:
        """Whether its arrays are those of keys of this width, as a damaged file's may not be."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything the region is, to be saved; ``from_arrays`` of its class makes it again."""


@dataclass(frozen=True)
class Hypercube:
    """Within ``alpha * k`` standard deviations of the mean in every dimension, at one layer.

    A dimension of standard deviation 0 tells nothing of how far is far; its ``std`` is infinite, so it is never left.
    """

    layer: int
    mean: np.ndarray  # [d_mlp] float64
    std: np.ndarray  # [d_mlp] float64
    k: float
    alpha: float = 1.0

    def score(self, keys: np.ndarray) -> np.ndarray:
        """``alpha * k`` less the largest deviation, in standard deviations."""
        deviation = np.abs(keys[:, self.layer].astype(np.float64) - self.mean) / self.std
        found: np.ndarray = self.alpha * self.k - deviation.max(axis=1)
        return found

    def inside(self, keys: np.ndarray) -> np.ndarray:
        return self.score(keys) >= 0

    def shaped(self, d_mlp: int) -> bool:
        return self.mean.shape == self.std.shape == (d_mlp,)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hypercube:
        numbers = {name: arrays[name].item() for name in ("layer", "k", "alpha")}
        return cls(mean=arrays["mean"], std=arrays["std"], **numbers)


def fit_hypercube(forget: np.ndarray, layer: int, alpha: float = 1.0) -> Hypercube:
    """The smallest such cube at ``layer`` that holds every row of ``forget`` ``[n, n_layers, d_mlp]``.

    Raises:
        ValueError: fewer than two rows, or keys that are not finite.
    """
    rows = _checked(forget[:, layer]).astype(np.float64)
    mean = rows.mean(axis=0)
    farthest = np.maximum(rows.max(axis=0) - mean, mean - rows.min(axis=0))
    rows -= mean
    std = np.sqrt(np.einsum("nd,nd->d", rows, rows) / len(rows))
    std = np.where(std > 0, std, np.inf)
    return Hypercube(layer, mean, std, float((farthest / std).max()), alpha)


@dataclass(frozen=True)
class Vote:
    """Where the layers' mean of two parts, the lesser of them, reaches the threshold.

    The parts are a linear separator and the negative distance to the skill's subspace, each in standard deviations of
    the calibration queries around their median.
    """

    layers: np.ndarray  # [n] int
    mean: np.ndarray  # [n, d_mlp] float64, of all prompts of the fit
    scale: np.ndarray  # [n, d_mlp] float64, infinite where nothing varies
    weight: np.ndarray  # [n, d_mlp] float64
    centre: np.ndarray  # [n, d_mlp] float64, of the skill, standardised
    basis: np.ndarray  # [n, rank, d_mlp] float64, orthonormal rows or zeros
    median: np.ndarray  # [2, n] float64
    spread: np.ndarray  # [2, n] float64
    threshold: float

    def score(self, keys: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._votes(keys) - self.threshold
        return found

    def inside(self, keys: np.ndarray) -> np.ndarray:
        return self.score(keys) >= 0

    def shaped(self, d_mlp: int) -> bool:
        n = len(self.layers)
        wide = all(part.shape == (n, d_mlp) for part in (self.mean, self.scale, self.weight, self.centre))
        deep = self.basis.ndim == 3 and self.basis.shape[::2] == (n, d_mlp)
        return wide and deep and self.median.shape == self.spread.shape == (2, n)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Vote:
        return cls(**{**arrays, "threshold": arrays["threshold"].item()})

    def _votes(self, keys: np.ndarray) -> np.ndarray:
        parts = np.stack([_parts(self, number, keys[:, layer]) for number, layer in enumerate(self.layers)], axis=1)
        standard = (parts - self.median[..., None]) / self.spread[..., None]  # [2, n_layers, n]
        votes: np.ndarray = standard.mean(axis=1).min(axis=0)
        return votes


def fit_region(
    forget: np.ndarray,
    others: np.ndarray,
    choose: np.ndarray,
    layers: Sequence[int],
    *,
    miss_rate: float = 0.02,
    ridge: float = RIDGE,
    kept: float = KEPT,
) -> Vote:
    """The region of ``forget`` against ``others``, missing at most ``miss_rate`` of the skill's prompts on average.

    The guarantee is conformal: it needs ``choose`` to be drawn as future prompts are, and not used in the fit.

    Args:
        forget, others, choose: keys ``[n, n_layers, d_mlp]``; ``choose`` are further queries of the forget skill.
        layers: those that vote.

    Raises:
        ValueError: too few rows for the rate (saying how many are needed), or keys that are not finite.
    """
    forget, others, choose = _checked(forget), _checked(others), _checked(choose)
    fitted = [_fit_layer(forget[:, layer], others[:, layer], ridge, kept) for layer in layers]
    rank = max(len(basis) for *_, basis in fitted)
    bases = np.stack([np.pad(basis, ((0, rank - len(basis)), (0, 0))) for *_, basis in fitted])
    mean, scale, weight, centre = (np.stack(part) for part in zip(*(four for *four, _ in fitted), strict=True))
    unit = np.ones((2, len(layers)))
    raw = Vote(np.asarray(layers), mean, scale, weight, centre, bases, unit * 0, unit, 0.0)
    parts = np.stack([_parts(raw, number, choose[:, layer]) for number, layer in enumerate(layers)], axis=1)
    spread = parts.std(axis=-1)
    scaled = Vote(
        np.asarray(layers),
        mean,
        scale,
        weight,
        centre,
        bases,
        np.median(parts, axis=-1),
        np.where(spread > 0, spread, np.inf),
        0.0,
    )
    threshold = conformal_threshold(scaled.score(choose), miss_rate)
    return Vote(**{**vars(scaled), "threshold": threshold})


@dataclass(frozen=True)
class Kept:
    """One skill's keys, to fit on and to choose by, ``[n, n_layers, d_mlp]`` each."""

    fit: np.ndarray
    choose: np.ndarray


Choice = tuple[tuple[int, ...], float]
"""Layers that vote, and the slack of the border."""


def choose_region(
    forget: Kept,
    others: Sequence[Kept],
    stretches: Sequence[tuple[int, ...]],
    miss_rate: float = 0.02,
    background: np.ndarray | None = None,
) -> tuple[Vote, Choice]:
    """The region whose layers and slack let in least of other skills, and of each other skill left out of the fit.

    Both shares are read on the choosing parts, the second as far as it is above ``STRANGERS``; of equals the widest
    border is taken.

    Args:
        background: keys of prompts that need none of the skills, to be told from besides.

    Raises:
        ValueError: see ``fit_region``.
    """
    tried: list[tuple[float, float, Vote, Choice]] = []
    for layers in stretches:
        whole = region_of(forget, others, (layers, 0.0), miss_rate, background)
        without = []
        if len(others) > 1:  # else nothing would be left to fit against
            for at in range(len(others)):
                rest = [*others[:at], *others[at + 1 :]]
                without.append((region_of(forget, rest, (layers, 0.0), miss_rate, background), rest))
        for slack in SLACKS:
            region = widened(whole, others, slack)
            harm = max(_share(region, other) for other in others)
            strangers = [
                _share(widened(fitted, rest, slack), other)
                for (fitted, rest), other in zip(without, others, strict=False)
            ]
            harm += max(max(strangers, default=0.0) - STRANGERS, 0.0)
            tried.append((harm, -slack, region, (layers, slack)))
    *_, region, choice = min(tried, key=lambda found: found[:2])
    return region, choice


def region_of(
    forget: Kept,
    others: Sequence[Kept],
    choice: Choice,
    miss_rate: float = 0.02,
    background: np.ndarray | None = None,
) -> Vote:
    """``fit_region`` with one choice of layers and slack."""
    layers, slack = choice
    rows = np.concatenate([other.fit for other in others] + ([] if background is None else [background]))
    return widened(fit_region(forget.fit, rows, forget.choose, layers, miss_rate=miss_rate), others, slack)


def widened(region: Vote, others: Sequence[Kept], slack: float) -> Vote:
    """``region`` with its border moved ``slack`` of the way towards the nearest of other skills' choosing queries.

    Where one of them lies inside there is no way to go. A wider border misses fewer of the skill's prompts still.
    """
    nearest = max(float(region.score(other.choose).max()) for other in others)
    return replace(region, threshold=region.threshold - slack * max(-nearest, 0.0))


def _share(region: Region, other: Kept) -> float:
    return float(region.inside(other.choose).mean())


def conformal_threshold(scores: np.ndarray, rate: float) -> float:
    """The largest threshold that a further score of the same kind falls below with probability ``rate`` at most.

    Raises:
        ValueError: see ``conformal_place``.
    """
    return float(np.sort(scores)[conformal_place(len(scores), rate) - 1])


def conformal_place(n: int, rate: float) -> int:
    """Which of ``n`` scores, the smallest first, is that threshold: floor(rate * (n + 1)), from 1 on.

    This is split conformal prediction (Vovk et al. 2005).

    Raises:
        ValueError: so few scores that no threshold keeps the rate, saying how many are needed.
    """
    if not 0 < rate < 1:
        raise ValueError(f"the rate is {rate}; give a number between 0 and 1")
    place = math.floor(rate * (n + 1) + 1e-9)  # 0.02 * 50 is a little less than 1 in binary
    if place < 1:
        raise ValueError(f"{n} queries are too few to miss {rate:.1%}; {math.ceil(1 / rate - 1e-9) - 1} do")
    return place


def _fit_layer(forget: np.ndarray, others: np.ndarray, ridge: float, kept: float) -> tuple[np.ndarray, ...]:
    """Mean, scale, weight, centre and basis of one layer ``[n, d_mlp]``; the separator is ridge regression on labels.

    Both classes weigh the same. It is solved in its dual form, an ``n`` by ``n`` system.
    """
    rows = np.concatenate([forget, others]).astype(np.float64)
    share = np.repeat([0.5 / len(forget), 0.5 / len(others)], [len(forget), len(others)])
    mean = share @ rows
    scale = np.sqrt(share @ (rows - mean) ** 2)
    scale = np.where(scale > 0, scale, np.inf)
    standard = _directions(rows, mean, scale)
    root = np.sqrt(share)
    weighted = standard * root[:, None]
    gram = weighted @ weighted.T
    penalty = ridge * gram.trace() / len(gram)
    labels = root * np.repeat([1.0, -1.0], [len(forget), len(others)])
    weight = weighted.T @ np.linalg.solve(gram + penalty * np.eye(len(gram)), labels)
    own = standard[: len(forget)]
    centre = own.mean(axis=0)
    _, singular, directions = np.linalg.svd(own - centre, full_matrices=False)
    carried = np.cumsum(singular**2) / max(float((singular**2).sum()), np.finfo(float).tiny)
    rank = int(np.searchsorted(carried, kept)) + 1
    return mean, scale, weight, centre, directions[:rank]


def _directions(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardised rows of length 1: a query with a large key would else be far from its own skill."""
    standard = (rows - mean) / scale
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(standard, length, out=np.zeros_like(standard), where=length > 0)
    return unit


def _parts(region: Vote, number: int, keys: np.ndarray) -> np.ndarray:
    """Separator and negative distance to the subspace of one layer's keys ``[2, n]``."""
    standard = _directions(keys.astype(np.float64), region.mean[number], region.scale[number])
    off = standard - region.centre[number]
    basis = region.basis[number]
    along = off @ basis.T
    squared = np.maximum((off**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    return np.stack([standard @ region.weight[number], -np.sqrt(squared)])


def _checked(keys: np.ndarray) -> np.ndarray:
    if len(keys) < 2:
        raise ValueError(f"{len(keys)} queries are too few to fit a region; give 2")
    if not np.isfinite(keys).all():
        raise ValueError("key vectors are not finite")
    return keys
