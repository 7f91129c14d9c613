"""What the hook of Neuron Adjust does to pre-activations, on a module that has nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from audit.guards.methods.neuron_adjust import NeuronAdjustGuard
from audit.guards.sites import Sites
from concepts.adjust import Moments

FORGET = Moments(np.array([3.0]), np.array([0.5]))
RETAIN = Moments(np.array([0.0]), np.array([1.0]))


class OneNeuron(torch.nn.Module):
    """Token ``i`` has the pre-activation ``values[i]``."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = torch.from_numpy(np.asarray(values, dtype=np.float32))
        self.pre = torch.nn.Identity()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.pre(self.values[input_ids][..., None])
        return output


def adjusted(values: np.ndarray, seed: int = 0, forget: Moments = FORGET, retain: Moments = RETAIN) -> np.ndarray:
    """One sequence whose tokens have ``values``, through the guard's hook."""
    model = OneNeuron(values)
    guard = NeuronAdjustGuard(np.array([[0, 0]]), forget, retain, share=1.0, seed=seed)
    with guard.apply(model, Sites(out=("pre",), pre=("pre",), first=(0,), d_mlp=1)):
        output: np.ndarray = model(torch.arange(len(values))[None])[0, :, 0].numpy()
    return output


def test_forget_values_are_reflected_into_the_retain_distribution_and_retain_values_stay() -> None:
    assert adjusted(np.array([3.5, -1.0])).tolist() == [-1.0, -1.0]


def test_the_probability_is_the_ratio_of_normal_densities() -> None:
    x = 2.1
    p_forget, p_retain = norm.pdf(x, 3.0, 0.5), norm.pdf(x, 0.0, 1.0)
    chance = p_forget / (p_forget + p_retain)
    assert 0.5 < chance < 0.95
    moved = adjusted(np.full(5_000, x)) != np.float32(x)
    assert moved.mean() == pytest.approx(chance, abs=0.03)  # so each element has a draw of its own


def test_the_spread_is_a_standard_deviation_and_not_a_variance() -> None:
    """Reflected 1.2 spreads of the one to 1.2 spreads of the other: 0.36 for 0.3, where its root would give 0.66."""
    narrow, wide = Moments(np.array([0.0]), np.array([0.3])), Moments(np.array([0.0]), np.array([1.0]))
    assert adjusted(np.array([1.2]), forget=wide, retain=narrow).item() == pytest.approx(-0.36)
    assert adjusted(np.array([1.2]), forget=narrow, retain=wide).item() == pytest.approx(1.2)


def test_a_value_that_is_likelier_elsewhere_never_moves() -> None:
    x = 1.2  # the densities are 0.0013 and 0.39
    assert (adjusted(np.full(2_000, x)) == np.float32(x)).all()


def test_the_seed_repeats_the_draws_and_another_changes_them() -> None:
    crossing = np.full(500, 2.1)
    first, again, other = (adjusted(crossing, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_values_whose_densities_both_underflow_are_still_decided() -> None:
    moved = adjusted(np.array([1e6, -1e6]))
    assert np.isfinite(moved).all()
    assert moved.tolist() == [1e6, -1e6]  # of two densities that underflow, the wider one's is the larger


def test_a_neuron_that_never_moves_has_a_density() -> None:
    still = Moments(np.array([2.0]), np.array([1e-6]))
    assert adjusted(np.array([2.0, 0.1]), forget=still).tolist() == [0.0, pytest.approx(0.1)]
