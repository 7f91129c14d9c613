"""A skill's region in key space: which prompts need the skill, decided from their key vectors alone.

There are two kinds. ``Hypercube`` is the paper's (Li, Sun and Weng 2025, Key Space Detection), in closed form: within k
standard deviations of the mean in every dimension, with the smallest k that holds every query of the fit. ``Vote``
combines, at several layers, a regularised linear separator from other skills with a distance to the skill's own
subspace, so that prompts unlike both stay outside; its threshold is a conformal quantile of queries that were not
fitted. Two things keep a skill outside that the fit never saw, measured on SmolLM2 (benchmarks/results/
skill_regions.json): mean keys in addition to last-token keys, without which Spanish is inside German, and a background
of other prompts, without which mathematics in English is inside English.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

RIDGE = 0.1
"""Ridge of the separator: this share of the Gram matrix's mean eigenvalue is added to all eigenvalues."""

KEPT = 0.9
"""Share of the fit's variance that the directions of the subspace carry."""


@runtime_checkable
class Region(Protocol):
    """A part of key space.

    Keys have all layers of the model, counted from 0. Mean keys of all layers may follow the last-token keys of all
    layers; they count as further layers.
    """

    def score(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Float[np.ndarray, " n"]:
        """How far inside each prompt is, float64: 0 on the border, above 0 inside."""

    def inside(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Bool[np.ndarray, " n"]:
        """``score >= 0``."""

    def shaped(self, d_mlp: int) -> bool:
        """Whether its arrays have the shapes for keys of this width; those of a damaged file may not."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole region as arrays, to be saved; ``from_arrays`` of its class restores it."""


@dataclass(frozen=True)
class Hypercube:
    """Within ``alpha * k`` standard deviations of the mean in every dimension, at one layer.

    A dimension with standard deviation 0 gives no scale; its ``std`` is infinite, so it never puts a prompt outside.
    """

    layer: int
    mean: Float[np.ndarray, " d_mlp"]
    std: Float[np.ndarray, " d_mlp"]
    k: float
    alpha: float = 1.0

    def score(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Float[np.ndarray, " n"]:
        """``alpha * k`` minus the largest deviation, in standard deviations."""
        deviation = np.abs(keys[:, self.layer].astype(np.float64) - self.mean) / self.std
        return np.asarray(self.alpha * self.k - deviation.max(axis=1))

    def inside(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Bool[np.ndarray, " n"]:
        return self.score(keys) >= 0

    def shaped(self, d_mlp: int) -> bool:
        return self.mean.shape == self.std.shape == (d_mlp,)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hypercube:
        numbers = {name: arrays[name].item() for name in ("layer", "k", "alpha")}
        return cls(mean=arrays["mean"], std=arrays["std"], **numbers)


def fit_hypercube(forget: Float[np.ndarray, "n n_layers d_mlp"], layer: int, alpha: float = 1.0) -> Hypercube:
    """The smallest cube at ``layer`` that holds every row of ``forget``.

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


def at_wrong_centres(cubes: Sequence[Hypercube], seed: int) -> list[Hypercube]:
    """Each cube round the centre of another one: a control, which should find none of the cube's own queries.

    Every centre is used once, and none stays in its place (the permutation of clusters in arXiv 2301.01217).

    Raises:
        ValueError: a single cube, for which there is no other centre.
    """
    if len(cubes) < 2:
        raise ValueError("a cube alone has no other centre; give at least two")
    order = np.random.default_rng(seed).permutation(len(cubes))
    other = dict(zip(order, np.roll(order, 1), strict=True))
    return [replace(cube, mean=cubes[other[place]].mean) for place, cube in enumerate(cubes)]


@dataclass(frozen=True)
class Vote:
    """Where the smaller of two scores, each averaged over the layers, reaches the threshold.

    The scores are a linear separator and the negative distance to the skill's subspace. Both are standardised by the
    median and the standard deviation of the calibration queries.

    Attributes:
        layers: those that vote.
        mean, scale: of all prompts of the fit; the scale is infinite where a neuron never varies.
        weight: of the linear separator.
        centre: of the skill, standardised.
        basis: of the skill's subspace, orthonormal rows or zeros.
        median, spread: of the two scores of the calibration queries.
    """

    layers: Int[np.ndarray, " n_voting"]
    mean: Float[np.ndarray, "n_voting d_mlp"]
    scale: Float[np.ndarray, "n_voting d_mlp"]
    weight: Float[np.ndarray, "n_voting d_mlp"]
    centre: Float[np.ndarray, "n_voting d_mlp"]
    basis: Float[np.ndarray, "n_voting rank d_mlp"]
    median: Float[np.ndarray, "2 n_voting"]
    spread: Float[np.ndarray, "2 n_voting"]
    threshold: float

    def score(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Float[np.ndarray, " n"]:
        """The vote minus the threshold."""
        standard = (self.scores(keys) - self.median[..., None]) / self.spread[..., None]
        return np.asarray(standard.mean(axis=1).min(axis=0) - self.threshold)

    def inside(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Bool[np.ndarray, " n"]:
        return self.score(keys) >= 0

    def scores(self, keys: Float[np.ndarray, "n n_layers d_mlp"]) -> Float[np.ndarray, "2 n_voting n"]:
        """Separator and negative distance to the subspace at each voting layer, before they are standardised."""
        return np.stack([self._layer_scores(at, keys[:, layer]) for at, layer in enumerate(self.layers)], axis=1)

    def _layer_scores(self, at: int, keys: Float[np.ndarray, "n d_mlp"]) -> Float[np.ndarray, "2 n"]:
        standard = _directions(keys.astype(np.float64), self.mean[at], self.scale[at])
        off = standard - self.centre[at]
        along = off @ self.basis[at].T
        squared = np.maximum((off**2).sum(axis=1) - (along**2).sum(axis=1), 0)  # rounding can bring it below 0
        return np.stack([standard @ self.weight[at], -np.sqrt(squared)])

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


def fit_region(
    forget: Float[np.ndarray, "n_forget n_layers d_mlp"],
    others: Float[np.ndarray, "n_others n_layers d_mlp"],
    choose: Float[np.ndarray, "n_choose n_layers d_mlp"],
    layers: Sequence[int],
    *,
    miss_rate: float = 0.02,
    ridge: float = RIDGE,
    kept: float = KEPT,
) -> Vote:
    """The region of ``forget`` against ``others``, missing at most ``miss_rate`` of the skill's prompts on average.

    The guarantee is conformal: it holds if ``choose`` is drawn as future prompts are and is not used in the fit.

    Args:
        forget, others, choose: key vectors; ``choose`` are further queries of the forget skill.
        layers: those that vote.

    Raises:
        ValueError: too few rows for the rate (saying how many are needed), or keys that are not finite.
    """
    forget, others, choose = _checked(forget), _checked(others), _checked(choose)
    fits = [_fit_layer(forget[:, layer], others[:, layer], ridge, kept) for layer in layers]
    rank = max(len(fit.basis) for fit in fits)
    region = Vote(
        layers=np.asarray(layers),
        mean=np.stack([fit.mean for fit in fits]),
        scale=np.stack([fit.scale for fit in fits]),
        weight=np.stack([fit.weight for fit in fits]),
        centre=np.stack([fit.centre for fit in fits]),
        basis=np.stack([np.pad(fit.basis, ((0, rank - len(fit.basis)), (0, 0))) for fit in fits]),
        median=np.zeros((2, len(layers))),
        spread=np.ones((2, len(layers))),
        threshold=0.0,
    )
    scores = region.scores(choose)
    spread = scores.std(axis=-1)
    region = replace(region, median=np.median(scores, axis=-1), spread=np.where(spread > 0, spread, np.inf))
    return replace(region, threshold=conformal_threshold(region.score(choose), miss_rate))


def conformal_threshold(scores: Float[np.ndarray, " n"], rate: float) -> float:
    """The largest threshold that a further score of the same kind falls below with a probability of at most ``rate``.

    Raises:
        ValueError: see ``conformal_place``.
    """
    return float(np.sort(scores)[conformal_place(len(scores), rate) - 1])


def conformal_place(n: int, rate: float) -> int:
    """Rank of that threshold among ``n`` ascending scores, counted from 1: floor(rate * (n + 1)).

    This is split conformal prediction (Vovk et al. 2005).

    Raises:
        ValueError: the scores are too few for any threshold to keep the rate; the message says how many are needed.
    """
    if not 0 < rate < 1:
        raise ValueError(f"the rate is {rate}; give a number between 0 and 1")
    place = math.floor(rate * (n + 1) + 1e-9)  # 0.02 * 50 is a little less than 1 in binary
    if place < 1:
        raise ValueError(f"{n} queries are too few to miss {rate:.1%}; {math.ceil(1 / rate - 1e-9) - 1} do")
    return place


@dataclass(frozen=True)
class _LayerFit:
    """What ``Vote`` holds of one layer; see there."""

    mean: Float[np.ndarray, " d_mlp"]
    scale: Float[np.ndarray, " d_mlp"]
    weight: Float[np.ndarray, " d_mlp"]
    centre: Float[np.ndarray, " d_mlp"]
    basis: Float[np.ndarray, "rank d_mlp"]


def _fit_layer(
    forget: Float[np.ndarray, "n_forget d_mlp"], others: Float[np.ndarray, "n_others d_mlp"], ridge: float, kept: float
) -> _LayerFit:
    """Ridge regression on the labels, in its dual form (an ``n`` by ``n`` system), and the skill's subspace.

    Both classes have the same weight.
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
    return _LayerFit(mean, scale, weight, centre, _subspace(own - centre, kept))


def _subspace(centred: Float[np.ndarray, "n d_mlp"], kept: float) -> Float[np.ndarray, "rank d_mlp"]:
    """The leading principal directions that together carry the share ``kept`` of the variance."""
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    carried = np.cumsum(singular**2) / max(float((singular**2).sum()), np.finfo(float).tiny)
    return np.asarray(directions[: int(np.searchsorted(carried, kept)) + 1])


def _directions(
    rows: Float[np.ndarray, "n d_mlp"], mean: Float[np.ndarray, " d_mlp"], scale: Float[np.ndarray, " d_mlp"]
) -> Float[np.ndarray, "n d_mlp"]:
    """Standardised rows of length 1; otherwise a query with large keys would be far from its own skill."""
    standard = (rows - mean) / scale
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    return np.asarray(np.divide(standard, length, out=np.zeros_like(standard), where=length > 0))


def _checked(keys: Float[np.ndarray, " n *dims"]) -> Float[np.ndarray, " n *dims"]:
    if len(keys) < 2:
        raise ValueError(f"{len(keys)} queries are too few to fit a region; give at least 2")
    if not np.isfinite(keys).all():
        raise ValueError("key vectors are not finite")
    return keys
