"""Attribution of answers to neurons, compared with ablating each one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.interventions import Rows
from audit.models.loading import RunningModel
from audit.vectors.attribution import integrated_gradients, relp
from audit.vectors.effects import Trial
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import DENSE, TRAINABLE, write_tiny

FAMILIES = [family for family in DENSE if family in TRAINABLE]
NORM_AFTER_FFN = ("gemma2", "gemma3", "olmo2")
QUESTIONS = [*FORGET, *RETAIN]


def exact(model: RunningModel, layer: int, neurons: list[int]) -> np.ndarray:
    """Mean fall of the answers when each of ``neurons`` alone is zeroed."""
    trial, nothing = Trial(model, QUESTIONS), torch.zeros(1, model.architecture.d_model)
    return np.array([trial.effect({layer: Rows((neuron,), nothing)}).mean() for neuron in neurons])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NORM_AFTER_FFN])
def test_integrated_gradients_of_a_layer_add_up_to_ablating_all_of_it(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    d_mlp, d_model = model.architecture.d_mlp, model.architecture.d_model
    for layer in range(model.architecture.n_layers):
        estimates = integrated_gradients(model, QUESTIONS, [layer], points=20)[layer]
        whole = Trial(model, QUESTIONS).effect({layer: Rows(tuple(range(d_mlp)), torch.zeros(d_mlp, d_model))}).mean()
        assert float(estimates.sum()) == pytest.approx(whole, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_estimates_rank_neurons_as_ablation_does(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    neurons = list(range(model.architecture.d_mlp))
    ablated = exact(model, 1, neurons)
    integrated = integrated_gradients(model, QUESTIONS, [1])[1].numpy()
    propagated = relp(model, QUESTIONS)[1].numpy()
    assert np.corrcoef(ablated, integrated)[0, 1] > 0.8
    assert np.corrcoef(ablated, propagated)[0, 1] > 0.6


def test_layers_outside_the_argument_are_nan(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    estimates = integrated_gradients(model, QUESTIONS, [1])
    assert estimates[0].isnan().all()
    assert not estimates[1].isnan().any()


def test_attribution_leaves_the_model_unchanged(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    before = Trial(model, QUESTIONS).before
    first = relp(model, QUESTIONS)
    assert torch.equal(first, relp(model, QUESTIONS))
    np.testing.assert_array_equal(before, Trial(model, QUESTIONS).before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())
    assert all(parameter.grad is None for parameter in model.model.parameters())
