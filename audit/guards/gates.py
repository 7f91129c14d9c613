"""O3's gate: how much a prompt is one of an unlearning request's (Gao et al. 2024, arXiv 2407.10223). Pure arrays.

At each layer a prompt has a Mahalanobis distance to the request's prompts and a cosine distance to the nearest of them.
A one-class SVM makes one score of the layers' sums, and two normal distributions of the request's own scores, of
prompts that were fitted and of others, say how usual a score is. Keys are standardised by those of other prompts first:
otherwise what all prompts have in common is most of them.

The paper reads a RoBERTa that it trains for this; here the keys are the model's own. Its reference code gives both
normal distributions the same spread, and its weight falls to 0 again where prompts are more alike; by the formula alone
so would this one's, and the fitted prompts themselves would not open the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, Self

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

Keys = Float[np.ndarray, "n n_read d_mlp"]

FOLDS: Final = 10
"""Parts of the fitted prompts; each is scored by the others, as a prompt has no distance to itself."""
OUTLIERS: Final = 0.1
"""Share of the fitted prompts that the one-class SVM may leave outside (its nu)."""
TINY: Final = 1e-9
"""Keeps distances and spreads of prompts that are all alike above 0."""


@dataclass(frozen=True)
class TwoNormals:
    """An even mixture of two normal distributions.

    Attributes:
        mean, std: of each.
    """

    mean: Float[np.ndarray, " 2"]
    std: Float[np.ndarray, " 2"]

    @property
    def centre(self) -> float:
        """x0, half-way between the two means."""
        return float(self.mean.mean())

    def likeness(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """``p = 1 - |F(x) - F(2 x0 - x)|``: 1 at the centre, the same at equal distances from it, falling to 0."""
        return np.asarray(1 - np.abs(self._below(x) - self._below(2 * self.centre - x)))

    def _below(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.asarray(norm.cdf(x[:, None], self.mean, self.std).mean(axis=1))


def gate_weight(likeness: Float[np.ndarray, " n"], least: float = 0.0) -> Float[np.ndarray, " n"]:
    """``w = sigmoid(10 p - 2)``, and 0 below ``least``: sigmoid(-2), about 0.12, is never reached from above."""
    weight = 1 / (1 + np.exp(2 - 10 * likeness))
    return np.where(weight >= least, weight, 0.0)


@dataclass(frozen=True)
class Detector:
    """What is kept of a request's prompts.

    Attributes:
        mean, scale: of other prompts' keys; the scale is infinite where a neuron never varies.
        bank: the request's prompts, standardised, of length 1 at each layer.
        shrinkage: of each layer's covariance towards a multiple of the identity.
        typical: mean distances of the request's prompts, Mahalanobis and cosine.
        weight: of the layers, by the one-class SVM.
        score_mean, score_std: of the scores of fitted prompts, and of others of the request.
    """

    mean: Float[np.ndarray, "n_read d_mlp"]
    scale: Float[np.ndarray, "n_read d_mlp"]
    bank: Keys
    shrinkage: Float[np.ndarray, " n_read"]
    typical: Float[np.ndarray, "n_read 2"]
    weight: Float[np.ndarray, " n_read"]
    score_mean: Float[np.ndarray, " 2"]
    score_std: Float[np.ndarray, " 2"]

    def likeness(self, keys: Keys) -> Float[np.ndarray, " n"]:
        """p of each prompt; one nearer than the middle counts as in the middle.

        A prompt that was fitted is its own nearest point, so its score is below all that gave the distributions.
        """
        normals = TwoNormals(self.score_mean, self.score_std)
        return normals.likeness(np.maximum(self.score(keys), normals.centre))

    def score(self, keys: Keys) -> Float[np.ndarray, " n"]:
        """x of each prompt; larger where it is farther from the request's."""
        rows = _standardised(keys, self.mean, self.scale)
        return np.asarray(relative(self._distances(rows), self.typical) @ self.weight)

    def _distances(self, rows: Keys) -> Float[np.ndarray, "n n_read 2"]:
        return np.stack([cloud.distances(rows[:, at]) for at, cloud in enumerate(self._clouds)], axis=1)

    @cached_property
    def _clouds(self) -> list[Cloud]:
        return [Cloud.of(self.bank[:, at], float(self.shrinkage[at])) for at in range(self.bank.shape[1])]

    def shaped(self, n_read: int, d_mlp: int) -> bool:
        """Whether its arrays have the shapes for keys of this width; those of a damaged file may not."""
        wide = self.mean.shape == self.scale.shape == self.bank.shape[1:] == (n_read, d_mlp) and len(self.bank) > 0
        deep = self.shrinkage.shape == self.weight.shape == (n_read,) and self.typical.shape == (n_read, 2)
        return wide and deep and self.score_mean.shape == self.score_std.shape == (2,)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(**arrays)


def fit_detector(
    fitted: Keys,
    group: Int[np.ndarray, " n"],
    further: Float[np.ndarray, "m n_read d_mlp"],
    others: Float[np.ndarray, "k n_read d_mlp"],
) -> Detector:
    """The detector of a request.

    Args:
        fitted: keys of prompts of the request.
        group: which query each of them is a wording of; wordings of one query are never scored by each other.
        further: keys of queries of the request that are not among the fitted; both give the distribution of scores.
        others: keys of other prompts, by which all are standardised.
    """
    from sklearn.svm import OneClassSVM

    mean, scale = others.astype(np.float64).mean(axis=0), others.astype(np.float64).std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    bank = _standardised(fitted, mean, scale)
    distances = _cross_fitted(bank, group)
    typical = np.maximum(distances.mean(axis=0), TINY)
    weight = OneClassSVM(kernel="linear", nu=OUTLIERS).fit(relative(distances, typical)).coef_[0]
    shrinkage = np.array([shrinkage_of(bank[:, at]) for at in range(bank.shape[1])])
    half = Detector(mean, scale, bank, shrinkage, typical, weight, np.zeros(2), np.ones(2))
    scores = (relative(distances, typical) @ weight, half.score(further))
    score_mean, score_std = (np.array([function(part) for part in scores]) for function in (np.mean, np.std))
    return Detector(mean, scale, bank, shrinkage, typical, weight, score_mean, np.maximum(score_std, TINY))


def relative(
    distances: Float[np.ndarray, "n n_read 2"], typical: Float[np.ndarray, "n_read 2"]
) -> Float[np.ndarray, "n n_read"]:
    """The sum of both distances at each layer, each in units of its typical value."""
    return np.asarray((distances / typical).sum(axis=-1))


@dataclass(frozen=True)
class Cloud:
    """The request's prompts at one layer: points of length 1, and their covariance, shrunk.

    Attributes:
        directions: in which the points vary, orthonormal rows.
        variance: along each, shrunk.
        elsewhere: variance in every other direction.
    """

    points: Float[np.ndarray, "n d_mlp"]
    centre: Float[np.ndarray, " d_mlp"]
    directions: Float[np.ndarray, "k d_mlp"]
    variance: Float[np.ndarray, " k"]
    elsewhere: float

    @classmethod
    def of(cls, points: Float[np.ndarray, "n d_mlp"], shrinkage: float) -> Self:
        points = points.astype(np.float64)
        centre = points.mean(axis=0)
        _, singular, directions = np.linalg.svd(points - centre, full_matrices=False)
        variance = singular**2 / len(points)
        elsewhere = max(shrinkage * float(variance.sum()) / points.shape[1], TINY)
        return cls(points, centre, directions, (1 - shrinkage) * variance + elsewhere, elsewhere)

    def distances(self, rows: Float[np.ndarray, "m d_mlp"]) -> Float[np.ndarray, "m 2"]:
        """Mahalanobis distance to the points, and one minus the largest cosine with one of them."""
        away = rows - self.centre
        along = away @ self.directions.T
        rest = np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0)  # rounding can bring it below 0
        mahalanobis = np.sqrt((along**2 / self.variance).sum(axis=1) + rest / self.elsewhere)
        return np.stack([mahalanobis, 1 - (rows @ self.points.T).max(axis=1)], axis=1)


def shrinkage_of(points: Float[np.ndarray, "n d_mlp"]) -> float:
    """Ledoit and Wolf's (2004); 1, which ignores the directions, for a single point."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    return float(ledoit_wolf_shrinkage(points)) if len(points) > 1 else 1.0


def _cross_fitted(bank: Keys, group: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n_read 2"]:
    """Distances of each part of the prompts to the other parts."""
    _, number = np.unique(group, return_inverse=True)
    fold = number % FOLDS
    distances = np.empty((*bank.shape[:2], 2))
    for part in np.unique(fold):
        for layer in range(bank.shape[1]):
            points = bank[fold != part, layer]
            distances[fold == part, layer] = Cloud.of(points, shrinkage_of(points)).distances(bank[fold == part, layer])
    return distances


def _standardised(
    keys: Keys, mean: Float[np.ndarray, "n_read d_mlp"], scale: Float[np.ndarray, "n_read d_mlp"]
) -> Keys:
    """Standardised keys, of length 1 at each layer."""
    standard = (keys.astype(np.float64) - mean) / scale
    length = np.linalg.norm(standard, axis=-1, keepdims=True)
    return np.asarray(np.divide(standard, length, out=np.zeros_like(standard), where=length > 0))
