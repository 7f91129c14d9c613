"""Intervals cover what they should, repeat exactly, and are absent where there is no spread to see."""

from __future__ import annotations

import numpy as np
import pytest

from audit.statistics import bootstrap_interval, paired_difference_interval


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
