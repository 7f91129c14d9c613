"""FFN key space: how well the key vectors of two sets of questions separate, and how far they moved.

Key vectors of queries that need one skill cluster (Li, Sun, Weng 2025, "Effective Skill Unlearning through Intervention
and Abstention").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

FOLDS = 5
PERMUTATIONS = 999
SMALLEST_SET = 4
"""With fewer questions in a set, holding out a fold leaves nothing to train on."""
SHRINKAGE = 1.0
"""Ridge penalty in units of the mean squared norm of a standardised key: strong, as there are far more neurons than
questions."""


@dataclass(frozen=True)
class Separability:
    """Cross-validated AUC of each layer, with its null distribution under permuted labels.

    Attributes:
        auc: 0.5 is no separation, 1 is complete separation.
        best: the layer with the highest AUC.
        p_value: of the best layer. The null is the highest AUC over layers under each permutation, which corrects for
            choosing the layer.
        p_values: of each layer, with the same correction.
        null: mean AUC over permutations; near 0.5.
    """

    auc: Float[np.ndarray, " n_layers"]
    best: int
    p_value: float
    p_values: Float[np.ndarray, " n_layers"]
    null: Float[np.ndarray, " n_layers"]


def separability(
    inside: Float[np.ndarray, "n_inside n_layers d_mlp"],
    outside: Float[np.ndarray, "n_outside n_layers d_mlp"],
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
    folds: int = FOLDS,
) -> Separability:
    """How well a regularised linear rule distinguishes ``inside`` keys from ``outside`` keys, on keys held out.

    Ridge regression on the labels (linear discriminant analysis with shrinkage, up to scale). Held-out predictions
    have a closed form: with ``H = K (K + lambda I)^-1``, those of fold F are ``y_F - (I - H_FF)^-1 (y - H y)_F``. They
    are linear in the labels, so a permutation costs one product. Labels are permuted within folds, which keeps each
    fold's share of either label.

    Raises:
        ValueError: a set is smaller than ``SMALLEST_SET``, or keys are not finite.
    """
    rng = np.random.default_rng(seed)
    keys, labels, fold = _folded(inside, outside, folds, rng)
    drawn = _permuted_within(labels, fold, permutations, rng)
    every = np.vstack([labels, drawn])  # [1 + permutations, n]
    auc = np.stack([_auc(every @ _predictor(layer, fold).T, every) for layer in keys.swapaxes(0, 1)])
    observed, null = auc[:, 0], auc[:, 1:]
    highest = null.max(axis=0)  # [permutations]
    p_values = (1 + (highest >= observed[:, None] - 1e-12).sum(axis=1)) / (1 + permutations)
    best = int(observed.argmax())
    return Separability(observed, best, float(p_values[best]), p_values, null.mean(axis=1))


def held_out_auc(
    inside: Float[np.ndarray, "n_inside n_layers d_mlp"],
    outside: Float[np.ndarray, "n_outside n_layers d_mlp"],
    *,
    seed: int,
    folds: int = FOLDS,
) -> Float[np.ndarray, " n_layers"]:
    """The AUC of ``separability``, without its null.

    Raises:
        ValueError: as ``separability``.
    """
    keys, labels, fold = _folded(inside, outside, folds, np.random.default_rng(seed))
    predicted = (labels @ _predictor(layer, fold).T for layer in keys.swapaxes(0, 1))
    return np.array([_auc(scores[None], labels[None])[0] for scores in predicted])


def centroid_shift(
    before: Float[np.ndarray, "_ _ _"], after: Float[np.ndarray, "_ _ _"]
) -> Float[np.ndarray, " n_layers"]:
    """Distance between the same questions' centroids before and after, in units of the spread before.

    Spread is the root mean squared distance of a question's key from its centroid. NaN where the spread is 0.

    Raises:
        ValueError: the two have different shapes, or fewer than two questions.
    """
    if before.shape != after.shape or len(before) < 2:
        raise ValueError(f"key vectors of shapes {before.shape} and {after.shape} cannot be compared")
    before, after = before.astype(np.float64), after.astype(np.float64)
    centre = before.mean(axis=0)  # [n_layers, d_mlp]
    spread = np.sqrt(((before - centre) ** 2).sum(axis=-1).mean(axis=0))  # [n_layers]
    distance = np.linalg.norm(after.mean(axis=0) - centre, axis=-1)
    shift: np.ndarray = np.divide(distance, spread, out=np.full_like(distance, np.nan), where=spread > 0)
    return shift


def typical(
    fit: Float[np.ndarray, "n_fit n_layers d_mlp"],
    keys: Float[np.ndarray, "n n_layers d_mlp"],
    share: float = 0.9,
) -> Bool[np.ndarray, "n_layers n"]:
    """Which of ``keys`` are as near to the centre of ``fit`` as ``share`` of its own keys are.

    The distance is in median absolute deviations of each neuron, shrunk half-way to the layer's mean squared deviation,
    since there are far more neurons than questions. Each question of ``fit`` is measured against the others alone, as
    further questions are, so that it does not appear nearer than they do. A few outliers do not widen the region.

    Raises:
        ValueError: fewer than three questions to fit on.
    """
    n = len(fit)
    if n < 3:
        raise ValueError(f"{n} questions are too few to span a region")
    fit, keys = fit.astype(np.float64), keys.astype(np.float64)
    every = np.arange(n)
    own = np.array([_distance(fit[every != at], fit[at : at + 1])[0] for at in every])  # [n_fit, n_layers]
    return np.asarray((_distance(fit, keys) <= np.quantile(own, share, axis=0)).T)


def _distance(
    fit: Float[np.ndarray, "n_fit n_layers d_mlp"], keys: Float[np.ndarray, "n n_layers d_mlp"]
) -> Float[np.ndarray, "n n_layers"]:
    """Distance of each of ``keys`` from the median of ``fit``, in shrunk deviations.

    The deviations are not scaled to standard deviations: distances are compared with each other alone.
    """
    centre = _median(fit)
    squared = _median(np.abs(fit - centre)) ** 2
    scale = np.sqrt((squared + squared.mean(axis=-1, keepdims=True)) / 2)
    standard = (keys - centre) / np.where(scale > 0, scale, np.inf)
    return np.asarray(np.linalg.norm(standard, axis=-1))


def _median(values: Float[np.ndarray, "n n_layers d_mlp"]) -> Float[np.ndarray, "n_layers d_mlp"]:
    """``np.median`` along the first axis, which takes more than twice as long as sorting the few rows."""
    ordered, n = np.sort(values, axis=0), len(values)
    return np.asarray((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)


def carriers(
    inside: Float[np.ndarray, "n_inside n_layers d_mlp"],
    outside: Float[np.ndarray, "n_outside n_layers d_mlp"],
    share: float,
) -> Bool[np.ndarray, "n_layers d_mlp"]:
    """The neurons that separate the two sets best: ``share`` of each layer's, at least one.

    They are ordered by the distance of the means in units of the pooled standard deviation, which is infinite for a
    neuron that varies in neither set and whose means differ.
    """
    apart = np.abs(inside.mean(axis=0, dtype=np.float64) - outside.mean(axis=0, dtype=np.float64))
    spread = np.sqrt((inside.var(axis=0, dtype=np.float64) + outside.var(axis=0, dtype=np.float64)) / 2)
    distance = np.divide(apart, spread, out=np.where(apart > 0, np.inf, 0.0), where=spread > 0)
    count = max(round(share * distance.shape[1]), 1)
    chosen = np.zeros(distance.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-distance, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen


def jaccard(
    one: Bool[np.ndarray, "n_layers d_mlp"], other: Bool[np.ndarray, "n_layers d_mlp"]
) -> Float[np.ndarray, " n_layers"]:
    """Shared members of two sets over the members of either, for each layer."""
    return np.asarray((one & other).sum(axis=1) / (one | other).sum(axis=1))


@dataclass(frozen=True)
class Plane:
    """Two directions of one layer's key space: the one that separates two sets, and the one of most other variance.

    Attributes:
        centre: half-way between the sets' means.
        axes: orthonormal in keys that are divided by each neuron's standard deviation.
    """

    centre: Float[np.ndarray, " d_mlp"]
    axes: Float[np.ndarray, "2 d_mlp"]

    def project(self, keys: Float[np.ndarray, "n d_mlp"]) -> Float[np.ndarray, "n 2"]:
        """Coordinates of keys in the plane."""
        return np.asarray((keys.astype(np.float64) - self.centre) @ self.axes.T)


def plane(inside: Float[np.ndarray, "n_inside d_mlp"], outside: Float[np.ndarray, "n_outside d_mlp"]) -> Plane:
    """The plane fitted to one layer's keys of two sets.

    The first axis is the ridge rule of ``separability``; the second is the leading principal component of the rest.
    """
    keys = np.concatenate([inside, outside]).astype(np.float64)
    centre = (inside.mean(axis=0, dtype=np.float64) + outside.mean(axis=0, dtype=np.float64)) / 2
    scale = keys.std(axis=0)
    centred = np.divide(keys - centre, scale, out=np.zeros_like(keys), where=scale > 0)
    labels = np.repeat([1.0, -1.0], [len(inside), len(outside)])
    gram = centred @ centred.T
    ridge = SHRINKAGE * gram.trace() / len(gram) * np.eye(len(gram))
    first = _unit(np.linalg.solve(gram + ridge, labels) @ centred)
    rest = centred - np.outer(centred @ first, first)
    second = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)[2][0]
    second = _unit(second - (second @ first) * first)
    axes = np.stack([first, second if second.sum() >= 0 else -second])
    return Plane(centre, np.divide(axes, scale, out=np.zeros_like(axes), where=scale > 0))


def _unit(vector: Float[np.ndarray, " d_mlp"]) -> Float[np.ndarray, " d_mlp"]:
    size = np.linalg.norm(vector)
    return vector / size if size else vector


def _folded(
    inside: Float[np.ndarray, "n_inside n_layers d_mlp"],
    outside: Float[np.ndarray, "n_outside n_layers d_mlp"],
    folds: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "n n_layers d_mlp"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Keys (float64), labels (1 inside, 0 outside) and fold of each item."""
    smallest = min(len(inside), len(outside))
    if smallest < SMALLEST_SET:
        raise ValueError(f"{smallest} questions in a set are too few; {SMALLEST_SET} are needed")
    keys = np.concatenate([inside, outside]).astype(np.float64)
    if not np.isfinite(keys).all():
        raise ValueError("key vectors are not finite")
    labels = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    return keys, labels, _stratified(labels, min(folds, smallest), rng)


def _stratified(labels: Float[np.ndarray, " n"], folds: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Fold of each item; each label is spread evenly over the folds."""
    fold = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % folds
    return fold


def _permuted_within(
    labels: Float[np.ndarray, " n"], fold: Int[np.ndarray, " n"], times: int, rng: np.random.Generator
) -> Float[np.ndarray, "times n"]:
    """``times`` copies of the labels, shuffled within each fold."""
    drawn = np.tile(labels, (times, 1))
    for number in np.unique(fold):
        members = np.flatnonzero(fold == number)
        drawn[:, members] = rng.permuted(drawn[:, members], axis=1)
    return drawn


def _predictor(keys: Float[np.ndarray, "n d_mlp"], fold: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """The matrix that turns labels into held-out predictions, for one layer's keys."""
    scale = keys.std(axis=0)
    # a neuron that never varies carries no information; it stays at 0
    standardised = np.divide(keys - keys.mean(axis=0), scale, out=np.zeros_like(keys), where=scale > 0)
    gram = standardised @ standardised.T
    size = gram.trace() / len(gram)
    if size == 0:
        return np.zeros_like(gram)
    hat = np.linalg.solve(gram + SHRINKAGE * size * np.eye(len(gram)), gram).T
    residual = np.eye(len(gram)) - hat
    predictor = np.eye(len(gram))
    for number in np.unique(fold):
        members = np.flatnonzero(fold == number)
        predictor[members] -= np.linalg.solve(residual[np.ix_(members, members)], residual[members])
    return predictor


def _auc(scores: Float[np.ndarray, "rows n"], labels: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, " rows"]:
    """Area under the ROC curve of each row; ties count half."""
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(scores, axis=1)
    positives = labels.sum(axis=1)
    negatives = labels.shape[1] - positives
    return np.asarray(((ranks * labels).sum(axis=1) - positives * (positives + 1) / 2) / (positives * negatives))
