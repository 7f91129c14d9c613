"""Separability is explicit cross-validation with a calibrated null; shift is measured in spreads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from concepts import keyspace
from concepts.keyspace import SHRINKAGE, centroid_shift, separability, typical


def keys(n: int, seed: int, shift: float = 0.0, layers: int = 2, width: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (n, layers, width)) + shift).astype(np.float32)


def test_planted_clusters_separate_and_noise_does_not() -> None:
    apart = separability(keys(10, 0, shift=1.0), keys(50, 1), seed=0)
    assert apart.auc.min() > 0.95
    assert apart.p_value == pytest.approx(1 / 1000)
    noise = separability(keys(10, 0), keys(50, 1), seed=0)
    assert noise.p_value > 0.05


def test_only_the_layer_that_separates_is_significant() -> None:
    inside = keys(12, 0)
    inside[:, 1] += 1.0
    result = separability(inside, keys(30, 1), seed=0)
    assert result.best == 1
    assert result.p_values[0] > 0.05 > result.p_values[1]


def test_the_closed_form_is_explicit_cross_validation() -> None:
    """The same ridge rule fitted fold by fold in the primal, on training items only."""
    both = np.concatenate([keys(8, 0, shift=0.3, layers=1), keys(20, 1, layers=1)])[:, 0].astype(np.float64)
    labels = np.repeat([1.0, 0.0], [8, 20])
    fold = np.arange(28) % 4
    standardised = (both - both.mean(axis=0)) / both.std(axis=0)
    penalty = SHRINKAGE * (standardised**2).sum(axis=1).mean()
    expected = np.empty(28)
    for number in range(4):
        train, held_out = fold != number, fold == number
        inner = standardised[train].T @ standardised[train] + penalty * np.eye(40)
        weights = np.linalg.solve(inner, standardised[train].T @ labels[train])
        expected[held_out] = standardised[held_out] @ weights
    predicted = keyspace._predictor(both, fold) @ labels
    assert predicted == pytest.approx(expected, abs=1e-9)
    (auc,) = keyspace._auc(predicted[None], labels[None])
    assert auc == pytest.approx(roc_auc_score(labels, expected))


def test_noise_is_called_separable_as_often_as_the_level_says() -> None:
    p_values = [
        separability(keys(8, seed, layers=4), keys(24, seed + 10_000, layers=4), seed=seed, permutations=199).p_value
        for seed in range(200)
    ]
    below = sum(p <= 0.05 for p in p_values)
    assert binomtest(below, 200, 0.05).pvalue > 0.001, f"{below} of 200 at or below 0.05"


def test_the_null_is_centred_on_one_half() -> None:
    assert separability(keys(10, 0, shift=1.0), keys(50, 1), seed=0).null == pytest.approx(0.5, abs=0.03)


def test_neurons_that_never_vary_and_layers_that_are_constant_have_no_effect() -> None:
    inside, outside = keys(10, 0, shift=1.0), keys(30, 1)
    inside[:, 0], outside[:, 0] = 1.0, 1.0
    inside[:, 1, 5], outside[:, 1, 5] = 2.0, 2.0
    auc = separability(inside, outside, seed=0).auc
    assert auc[0] == pytest.approx(0.5)
    assert auc[1] > 0.95


def test_the_same_seed_gives_the_same_answer() -> None:
    one, two = (separability(keys(10, 0), keys(30, 1), seed=7) for _ in range(2))
    assert one.p_value == two.p_value
    assert (one.auc == two.auc).all()


def test_too_few_questions_and_broken_keys_are_errors() -> None:
    with pytest.raises(ValueError, match="3 questions in a set are too few"):
        separability(keys(3, 0), keys(30, 1), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        separability(keys(5, 0, shift=np.nan), keys(30, 1), seed=0)


def test_shift_is_the_distance_of_centroids_in_spreads() -> None:
    before = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])  # spread 1
    assert centroid_shift(before, before + np.array([0.0, 3.0])) == pytest.approx([3.0])
    assert centroid_shift(before, before) == pytest.approx([0.0])
    assert centroid_shift(10 * before, 10 * before + np.array([0.0, 3.0])) == pytest.approx([0.3])


def test_shift_without_any_spread_is_undefined() -> None:
    same = np.ones((3, 1, 2))
    assert np.isnan(centroid_shift(same, same + 1)).all()
    with pytest.raises(ValueError, match="cannot be compared"):
        centroid_shift(same, np.ones((2, 1, 2)))


def test_a_region_holds_further_questions_of_its_kind_and_no_others() -> None:
    rng = np.random.default_rng(0)
    own, further, others = (rng.normal(at, 1, (40, 2, 30)) for at in (0.0, 0.0, 1.5))
    assert typical(own, further).mean() > 0.8
    assert not typical(own, others).any()
    assert typical(own, further).shape == (2, 40)
    few = np.stack([typical(rng.normal(0, 1, (6, 1, 400)), rng.normal(0, 1, (6, 1, 400))) for _ in range(200)])
    assert few.mean() > 0.75, "six questions do not appear nearer to each other than further ones do"
    odd = np.concatenate([own[:11], 100 * own[11:12]])
    assert not typical(odd, others).any(), "a single outlier does not widen the region"
    with pytest.raises(ValueError, match="too few"):
        typical(own[:1], own)
