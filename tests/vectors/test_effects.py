"""Trials of edits: the same numbers as applying the edit, from the lowest edited layer upwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.interventions import Change, Rows, apply
from audit.models.ffn import value_rows
from audit.models.loading import RunningModel
from audit.models.packing import tokenize
from audit.vectors.effects import FLOOR, ControlledEffect, Effect, Trial
from tests.helpers import FORGET, RETAIN, answer_sum, open_model
from tests.tiny import DENSE, TRAINABLE, write_tiny

FAMILIES = [family for family in DENSE if family in TRAINABLE]
QUESTIONS = [*FORGET, *RETAIN]


def some_change(model: RunningModel, layers: tuple[int, ...] = (0, 1)) -> Change:
    generator = torch.Generator().manual_seed(1)
    drawn = {layer: torch.randn(2, model.architecture.d_model, generator=generator) for layer in layers}
    return {layer: Rows((3, 17), values) for layer, values in drawn.items()}


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_gives_the_numbers_of_the_applied_edit(family: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    change = some_change(model, layers)
    trial = Trial(model, QUESTIONS, lowest=min(layers))
    tried = trial.after(change)
    assert np.abs(tried - trial.before).max() > 0.01
    apply(model, change)
    made = Trial(model, QUESTIONS).before
    np.testing.assert_allclose(tried, made, atol=2e-5)


def test_answers_are_scored_as_by_a_plain_pass(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    plain = [float(answer_sum(model, tokens)) / len(tokens.answer) for tokens in tokenize(model.tokenizer, QUESTIONS)]
    np.testing.assert_allclose(Trial(model, QUESTIONS).before, plain, atol=1e-5)


def test_a_trial_leaves_the_model_unchanged(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    trial = Trial(model, QUESTIONS)
    first = trial.after(some_change(model))
    np.testing.assert_array_equal(first, trial.after(some_change(model)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())
    hooks = [module for module in model.model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []
    assert not any("forward" in vars(module) for module in model.model.modules())


def test_the_stored_rows_have_no_effect(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    same = {1: Rows((3, 17), value_rows(model, 1)[[3, 17]].clone())}
    np.testing.assert_allclose(Trial(model, QUESTIONS).effect(same), 0.0, atol=1e-6)


def test_layers_below_the_lowest_are_refused(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    with pytest.raises(ValueError, match="layer 0 is below 1"):
        Trial(model, QUESTIONS, lowest=1).after(some_change(model, (0,)))


def test_an_effect_distinguishes_specific_from_general_harm() -> None:
    rng = np.random.default_rng(0)
    specific = Effect(rng.normal(0.5, 0.1, 20), rng.normal(0.0, 0.05, 30))
    general = Effect(rng.normal(0.5, 0.1, 20), rng.normal(0.5, 0.1, 30))
    nothing = Effect(rng.normal(0.0, 0.01, 20), rng.normal(0.0, 0.01, 30))
    assert specific.ratio > 5
    assert specific.intervals()["specificity"][0] > 0.4
    assert general.intervals()["ratio"][1] < 1.5
    assert general.specificity == pytest.approx(0.0, abs=0.1)
    assert nothing.intervals()["specificity"][0] < 0 < nothing.intervals()["specificity"][1]


def test_a_ratio_never_divides_by_less_than_the_floor_and_then_has_no_interval() -> None:
    harmless = Effect(np.full(5, 0.1), np.full(5, -1.0))
    assert harmless.ratio == pytest.approx(0.1 / FLOOR)
    assert harmless.intervals()["ratio"] is None


def controlled(target: float, unrelated: float = 0.0, control: float = 0.0, n: int = 10) -> ControlledEffect:
    rng = np.random.default_rng(n)
    own, other = (
        Effect(rng.normal(fall, 0.1, n), rng.normal(cost, 0.1, 20))
        for fall, cost in ((target, unrelated), (control, 0))
    )
    return ControlledEffect(own, other)


def test_an_effect_is_significant_if_it_exceeds_unrelated_answers_and_control_vectors() -> None:
    assert controlled(0.5).p_value == pytest.approx(1 / 1024, abs=1e-3)
    assert controlled(0.5, unrelated=0.5).p_value > 0.05
    assert controlled(0.5, control=0.5).p_value > 0.05
    assert controlled(-0.5).p_value > 0.9


def test_fewer_than_eight_questions_are_not_tested() -> None:
    assert controlled(5.0, n=7).p_value is None
    assert controlled(5.0, n=8).p_value == pytest.approx(1 / 256, abs=1e-3)
