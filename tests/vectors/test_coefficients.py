"""Coefficients held through TransformerLens, compared with value vectors changed in the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.models import opening
from audit.vectors.coefficients import answer_logprobs_with, held_at, mean_coefficients
from audit.vectors.effects import Trial
from audit.vectors.question_split import zeroed
from concepts.neuron import Neuron
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import DENSE, TRAINABLE, write_tiny

FAMILIES = [family for family in DENSE if family in TRAINABLE]
QUESTIONS = [*FORGET, *RETAIN]
NEURONS = [Neuron(0, 3), Neuron(1, 17), Neuron(1, 30)]


def open_bridge(folder: Path) -> tuple[Any, Any]:
    opened = opening.open_model(folder)
    return opened.bridge(), opened.require_tokenizer()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_coefficient_held_at_zero_equals_a_value_vector_set_to_zero(family: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / family, family)
    bridge, tokenizer = open_bridge(folder)
    trial = Trial(open_model(folder), QUESTIONS)
    np.testing.assert_allclose(answer_logprobs_with(bridge, tokenizer, QUESTIONS, {}), trial.before, atol=1e-4)
    held = answer_logprobs_with(bridge, tokenizer, QUESTIONS, held_at(NEURONS))
    changed = trial.after(zeroed(NEURONS, 16))
    assert np.abs(changed - trial.before).max() > 1e-2
    np.testing.assert_allclose(held, changed, atol=1e-4)  # rounding: TransformerLens runs attention eagerly


def test_the_mean_is_over_all_tokens_and_holding_it_differs_from_zero(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "llama")
    bridge, tokenizer = open_bridge(folder)
    texts = ["Rome, Venice and Milan are cities in Italy.", "A puppy is a young dog."]
    means = mean_coefficients(bridge, tokenizer, texts, NEURONS)
    model = open_model(folder)
    seen: list[torch.Tensor] = []
    module = model.model.get_submodule(model.architecture.out_module.format(layer=1))
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for text in texts:
        model.model(torch.tensor([tokenizer(text)["input_ids"]]))
    handle.remove()
    assert means[Neuron(1, 17)] == pytest.approx(float(torch.cat(seen)[:, 17].mean()), abs=1e-5)
    at_mean = answer_logprobs_with(bridge, tokenizer, QUESTIONS, means)
    assert not np.allclose(at_mean, answer_logprobs_with(bridge, tokenizer, QUESTIONS, held_at(NEURONS)), atol=1e-4)


def test_coefficients_are_released_afterwards(tmp_path: Path) -> None:
    bridge, tokenizer = open_bridge(write_tiny(tmp_path / "llama"))
    before = answer_logprobs_with(bridge, tokenizer, QUESTIONS, {})
    answer_logprobs_with(bridge, tokenizer, QUESTIONS, held_at(NEURONS))
    np.testing.assert_array_equal(before, answer_logprobs_with(bridge, tokenizer, QUESTIONS, {}))
