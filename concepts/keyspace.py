"""FFN key space: how far the key vectors of one set of questions stand apart from another's, and how far they moved.

Key vectors of queries that need one skill cluster (Li, Sun, Weng 2025, "Effective Skill Unlearning through Intervention
and Abstention"). Arrays are ``[n_questions, n_layers, d_mlp]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 5
NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
PERMUTATIONS = 999
SMALLEST_SET = 4
"""Fewer questions than this in a set leave nothing to train on once a fold is held out."""
SHRINKAGE = 1.0
"""Ridge penalty in units of the mean squared norm of a standardised key: strong, as there are far more neurons than
questions."""


@dataclass(frozen=True)
class Separability:
    """Cross-validated AUC by layer with a label-permutation null.

    Attributes:
        auc: 0.5 is no separation, 1 complete ``[n_layers]``.
        best: the layer with the highest AUC.
        p_value: of the best layer, against the highest AUC over layers under each permutation, so that choosing the
            layer is paid for.
        p_values: of each layer, paid for alike ``[n_layers]``.
        null: mean AUC over permutations ``[n_layers]``; near 0.5.
    """

    auc: np.ndarray
    best: int
    p_value: float
    p_values: np.ndarray
    null: np.ndarray


def separability(
    inside: np.ndarray, outside: np.ndarray, *, seed: int, permutations: int = PERMUTATIONS, folds: int = FOLDS
) -> Separability:
    """How well a regularised linear rule tells ``inside`` keys from ``outside`` keys it was not fitted on.

    Ridge regression on the labels (linear discriminant analysis with shrinkage, up to scale), with held-out
    predictions in closed form: with ``H = K (K + lambda I)^-1`` that of fold F is ``y_F - (I - H_FF)^-1 (y - H y)_F``.
    It is linear in the labels, so a permutation costs one product. Labels are permuted within folds, which keeps each
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


def held_out_auc(inside: np.ndarray, outside: np.ndarray, *, seed: int, folds: int = FOLDS) -> np.ndarray:
    """``separability``'s AUC of each layer ``[n_layers]``, without its null.

    Raises:
        ValueError: as ``separability``.
    """
    keys, labels, fold = _folded(inside, outside, folds, np.random.default_rng(seed))
    predicted = (labels @ _predictor(layer, fold).T for layer in keys.swapaxes(0, 1))
    return np.array([_auc(scores[None], labels[None])[0] for scores in predicted])


def centroid_shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Distance between the same questions' centroids before and after, in units of the spread before ``[n_layers]``.

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


def typical(fit: np.ndarray, asked: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Which of ``asked`` lie as near to the centre of ``fit`` as ``share`` of its own do ``[n_layers, n_asked]``.

    The distance is in median deviations of each neuron, shrunk half-way to the layer's mean variance, since there are
    far more neurons than questions. Each question of ``fit`` is measured against the others alone, as further ones are,
    so that it seems no nearer than they would; a few that are unlike the rest do not widen the region.

    Raises:
        ValueError: fewer than three questions to fit on.
    """
    n = len(fit)
    if n < 3:
        raise ValueError(f"{n} questions are too few to span a region")
    fit, asked = fit.astype(np.float64), asked.astype(np.float64)
    every = np.arange(n)
    own = np.array([_far(fit[every != at], fit[at : at + 1])[0] for at in every])  # [n, n_layers]
    near: np.ndarray = _far(fit, asked) <= np.quantile(own, share, axis=0)
    return near.T


def _far(fit: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How far each of ``asked`` lies from the median of ``fit``, in shrunk deviations ``[n_asked, n_layers]``."""
    centre = np.median(fit, axis=0)
    variance = (NORMAL * np.median(np.abs(fit - centre), axis=0)) ** 2
    scale = np.sqrt((variance + variance.mean(axis=-1, keepdims=True)) / 2)
    distance: np.ndarray = np.linalg.norm((asked - centre) / np.where(scale > 0, scale, np.inf), axis=-1)
    return distance


def carriers(inside: np.ndarray, outside: np.ndarray, share: float) -> np.ndarray:
    """The neurons that tell the two sets apart best: ``share`` of each layer's ``[n_layers, d_mlp]`` bool.

    By distance of the means in units of the pooled standard deviation; a neuron that varies in neither set carries it
    if its means differ.
    """
    apart = np.abs(inside.mean(axis=0, dtype=np.float64) - outside.mean(axis=0, dtype=np.float64))
    spread = np.sqrt((inside.var(axis=0, dtype=np.float64) + outside.var(axis=0, dtype=np.float64)) / 2)
    distance = np.divide(apart, spread, out=np.where(apart > 0, np.inf, 0.0), where=spread > 0)
    count = max(round(share * distance.shape[1]), 1)
    found = np.zeros(distance.shape, dtype=bool)
    np.put_along_axis(found, np.argsort(-distance, axis=1, kind="stable")[:, :count], True, axis=1)
    return found


def jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Shared members of two sets over all of them, for each row ``[n_layers]``."""
    both: np.ndarray = (one & other).sum(axis=1) / (one | other).sum(axis=1)
    return both


@dataclass(frozen=True)
class Plane:
    """Two directions of one layer's key space: what tells two sets apart, and what varies most beside it.

    Attributes:
        centre: ``[d_mlp]``, between the sets' means.
        axes: ``[2, d_mlp]``, orthonormal in keys that are divided by each neuron's standard deviation.
    """

    centre: np.ndarray
    axes: np.ndarray

    def project(self, keys: np.ndarray) -> np.ndarray:
        """``[n, d_mlp]`` -> ``[n, 2]``."""
        projected: np.ndarray = (keys.astype(np.float64) - self.centre) @ self.axes.T
        return projected


def plane(inside: np.ndarray, outside: np.ndarray) -> Plane:
    """The plane fitted to one layer's keys of two sets, ``[n, d_mlp]`` each.

    The first axis is ``separability``'s ridge rule; the second the leading principal component of what is left.
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


def _unit(vector: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(vector)
    return vector / size if size else vector


def _folded(
    inside: np.ndarray, outside: np.ndarray, folds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys ``[n, n_layers, d_mlp]`` float64, labels (1 inside, 0 outside) and fold of each item ``[n]``."""
    smallest = min(len(inside), len(outside))
    if smallest < SMALLEST_SET:
        raise ValueError(f"{smallest} questions in a set are too few; {SMALLEST_SET} are needed")
    keys = np.concatenate([inside, outside]).astype(np.float64)
    if not np.isfinite(keys).all():
        raise ValueError("key vectors are not finite")
    labels = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    return keys, labels, _stratified(labels, min(folds, smallest), rng)


def _stratified(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each item ``[n]``: each label spread evenly over the folds."""
    fold = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % folds
    return fold


def _permuted_within(labels: np.ndarray, fold: np.ndarray, times: int, rng: np.random.Generator) -> np.ndarray:
    """``times`` copies of the labels, shuffled inside each fold ``[times, n]``."""
    drawn = np.tile(labels, (times, 1))
    for number in np.unique(fold):
        members = np.flatnonzero(fold == number)
        drawn[:, members] = rng.permuted(drawn[:, members], axis=1)
    return drawn


def _predictor(keys: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The matrix ``[n, n]`` that turns labels into held-out predictions, for one layer's keys ``[n, d_mlp]``."""
    scale = keys.std(axis=0)
    # a neuron that never varies tells nothing; it is left at 0
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


def _auc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each row of ``[rows, n]``, ties counting half ``[rows]``."""
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(scores, axis=1)
    positives = labels.sum(axis=1)
    negatives = labels.shape[1] - positives
    found: np.ndarray = ((ranks * labels).sum(axis=1) - positives * (positives + 1) / 2) / (positives * negatives)
    return found
