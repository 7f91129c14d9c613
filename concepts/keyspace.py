"""FFN key space: how far the key vectors of one set of questions stand apart from another's, and how far they moved.

Key vectors of queries that need one skill cluster (Li, Sun, Weng 2025, "Effective Skill Unlearning through Intervention
and Abstention"). Arrays are ``[n_questions, n_layers, d_mlp]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 5
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
    smallest = min(len(inside), len(outside))
    if smallest < SMALLEST_SET:
        raise ValueError(f"{smallest} questions in a set are too few; {SMALLEST_SET} are needed")
    keys = np.concatenate([inside, outside]).astype(np.float64)
    if not np.isfinite(keys).all():
        raise ValueError("key vectors are not finite")
    labels = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    rng = np.random.default_rng(seed)
    fold = _stratified(labels, min(folds, smallest), rng)
    drawn = _permuted_within(labels, fold, permutations, rng)
    every = np.vstack([labels, drawn])  # [1 + permutations, n]
    auc = np.stack([_auc(every @ _predictor(layer, fold).T, every) for layer in keys.swapaxes(0, 1)])
    observed, null = auc[:, 0], auc[:, 1:]
    highest = null.max(axis=0)  # [permutations]
    p_values = (1 + (highest >= observed[:, None] - 1e-12).sum(axis=1)) / (1 + permutations)
    best = int(observed.argmax())
    return Separability(observed, best, float(p_values[best]), p_values, null.mean(axis=1))


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
