"""Intervals have their coverage, repeat exactly, and are ``None`` where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from audit.statistics import (
    bootstrap_interval,
    independent_ratio_interval,
    paired_difference_interval,
    ratio_interval,
    sign_flip_p_value,
    two_sample_p_value,
)


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(size=40), seed=trial) or (0, 0)
        covered += low <= 0 <= high
    assert 175 <= covered <= 199


def test_one_value_has_no_interval() -> None:
    assert bootstrap_interval(np.array([1.0]), seed=0) is None
    assert bootstrap_interval(np.array([]), seed=0) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval(np.full(5, 0.25), seed=0) == (0.25, 0.25)


def test_a_seed_repeats_an_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_pairs_remove_what_items_have_in_common() -> None:
    items = np.random.default_rng(2).normal(size=30) * 100
    low, high = paired_difference_interval(items - 1, items, seed=0) or (0, 0)
    assert low == pytest.approx(-1)
    assert high == pytest.approx(-1)
    with pytest.raises(ValueError, match="equal numbers"):
        paired_difference_interval(items, items[1:], seed=0)


def test_the_interval_of_a_ratio_pairs_what_items_share() -> None:
    sizes = np.random.default_rng(3).uniform(1, 9, 30)
    assert ratio_interval(sizes / 2, sizes) == pytest.approx((0.5, 0.5))
    low, high = ratio_interval(sizes / 2, np.random.default_rng(4).permutation(sizes)) or (0, 0)
    assert low < 0.45 < 0.55 < high
    with pytest.raises(ValueError, match="equal numbers"):
        ratio_interval(sizes, sizes[1:])


def share_covered(mean: float, confidence: float) -> tuple[int, int]:
    """Intervals of 2000 ratios of six items each that contain the true ratio, and those that are undefined."""
    shared, own = np.random.default_rng(7).normal(size=(2, 2_000, 6))
    intervals = [
        ratio_interval(0.5 * mean + one + other, mean + one, confidence=confidence)
        for one, other in zip(shared, own, strict=True)
    ]
    defined = [interval for interval in intervals if interval is not None]
    return sum(low <= 0.5 <= high for low, high in defined), 2_000 - len(defined)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says(confidence: float) -> None:
    covered, undefined = share_covered(3.0, confidence)
    assert undefined == 0
    assert binomtest(covered, 2_000, confidence).pvalue > 0.001, f"{covered} of 2000"


def test_a_ratio_whose_denominator_is_often_near_0_is_undefined_and_not_too_narrow() -> None:
    covered, undefined = share_covered(1.0, 0.95)
    assert undefined > 500
    assert covered + undefined >= 0.95 * 2_000


def test_the_interval_of_a_ratio_of_two_samples_covers_it_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    above, below = 2 + rng.normal(size=(2_000, 8)), 1 + 0.5 * rng.normal(size=(2_000, 20))
    intervals = [independent_ratio_interval(one, other) for one, other in zip(above, below, strict=True)]
    covered = sum(interval is None or interval[0] <= 2 <= interval[1] for interval in intervals)
    assert 0.945 * 2_000 <= covered <= 0.99 * 2_000, f"{covered} of 2000"
    assert independent_ratio_interval(above[0], below[0][:1]) is None


def test_a_ratio_to_a_mean_that_may_be_0_has_no_interval() -> None:
    rng = np.random.default_rng(5)
    assert ratio_interval(np.ones(10), rng.normal(0, 1, 10)) is None
    assert ratio_interval(np.ones(1), np.ones(1)) is None


def test_a_wider_confidence_widens_a_ratio() -> None:
    rng = np.random.default_rng(6)
    above, below = rng.normal(1, 1, 20), rng.normal(5, 1, 20)
    narrow, wide = (ratio_interval(above, below, confidence=share) or (0, 0) for share in (0.9, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_sign_flip_test_is_exact_and_one_sided() -> None:
    assert sign_flip_p_value(np.arange(1.0, 9.0), seed=0) == 1 / 256
    assert sign_flip_p_value(-np.arange(1.0, 9.0), seed=0) == 1
    assert sign_flip_p_value(np.array([1.0, 1.0, -1.0]), seed=0) == 4 / 8
    assert sign_flip_p_value(np.zeros(8), seed=0) == 1


def test_many_values_are_tested_by_drawn_signs() -> None:
    values = np.random.default_rng(9).normal(0.4, 1, 30)
    drawn = sign_flip_p_value(values, seed=0)
    assert drawn == sign_flip_p_value(values, seed=0) != sign_flip_p_value(values, seed=1)
    assert drawn == pytest.approx(ttest_1samp(values, 0, alternative="greater").pvalue, abs=0.01)


def test_two_samples_are_compared_by_permutation() -> None:
    rng = np.random.default_rng(10)
    same, above = rng.normal(0, 1, 20), rng.normal(2, 1, 8)
    assert two_sample_p_value(above, same, seed=0) < 0.001
    assert two_sample_p_value(same, above, seed=0) > 0.99
    p_values = [two_sample_p_value(*np.split(rng.exponential(size=28), [8]), seed=0, draws=199) for _ in range(400)]
    assert binomtest(sum(p <= 0.05 for p in p_values), 400, 0.05).pvalue > 0.001
