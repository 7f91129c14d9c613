"""Neuron Adjust on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from concepts import adjust
from concepts.adjust import Moments

FORGET = Moments(np.array([3.0]), np.array([0.5]))
RETAIN = Moments(np.array([0.0]), np.array([1.0]))


def test_the_spread_is_a_standard_deviation_and_never_zero() -> None:
    found = adjust.measure(np.array([[0.0, 5.0], [4.0, 5.0]]))
    assert found.std.tolist() == [2.0, adjust.SPREAD_FLOOR]


@pytest.mark.parametrize("values", [np.zeros((1, 2)), np.array([[0.0], [np.nan]])])
def test_too_few_or_broken_activations_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"at least 2 queries|not finite"):
        adjust.measure(values)


def test_neurons_are_chosen_over_all_layers_and_by_sign_unless_asked() -> None:
    forget = Moments(np.array([[0.0, 2.0], [-9.0, 0.0]]), np.ones((2, 2)))
    retain = Moments(np.zeros((2, 2)), np.ones((2, 2)))
    assert adjust.top_share(adjust.mean_difference(forget, retain), 0.25).tolist() == [[0, 1]]
    assert adjust.top_share(adjust.mean_difference(forget, retain, absolute=True), 0.25).tolist() == [[1, 0]]


def test_the_probability_is_the_ratio_of_normal_densities() -> None:
    x = 1.7
    p_forget = np.exp(-0.5 * ((x - 3) / 0.5) ** 2) / 0.5
    p_retain = np.exp(-0.5 * x**2)
    found = adjust.forget_probability(np.array([x]), FORGET, RETAIN)
    assert found == pytest.approx(p_forget / (p_forget + p_retain))


def test_the_probability_stays_finite_where_both_densities_underflow() -> None:
    found = adjust.forget_probability(np.array([[1e6], [-1e6]]), FORGET, RETAIN)
    assert np.isfinite(found).all()


def test_forget_values_are_reflected_and_retain_values_stay() -> None:
    found = adjust.adjust(np.array([[3.5], [-1.0]]), FORGET, RETAIN, np.random.default_rng(0))
    assert found.tolist() == [[-1.0], [-1.0]]


def test_each_element_has_its_own_draw_and_the_seed_repeats_it() -> None:
    crossing = np.full((20_000, 1), 2.1)
    chance = adjust.forget_probability(crossing[:1], FORGET, RETAIN).item()
    assert 0.5 < chance < 0.95
    first, again = (adjust.adjust(crossing, FORGET, RETAIN, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)
    assert (first != crossing).mean() == pytest.approx(chance, abs=0.02)


def test_pruning_scores_by_activity_whatever_its_sign() -> None:
    forget, retain = np.array([[-4.0, 1.0], [4.0, 1.0]]), np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert adjust.activity_ratio(forget, retain).tolist() == [4.0, 1.0]
