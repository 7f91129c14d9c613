"""Selective synaptic dampening: the importance is by example, and the identities of its paper hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_loss, pack, tokenize
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import ssd
from audit.unlearning.parameters import block_matrices
from audit.unlearning.training import trainable
from tests.helpers import FORGET, RETAIN, answer_sum, open_model
from tests.tiny import write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def test_values_worked_out_by_hand() -> None:
    forgotten, kept = torch.tensor([8.0, 8.0, 2.0, 0.0, 5.0]), torch.tensor([1.0, 4.0, 2.0, 0.0, 0.0])
    assert ssd.factors(forgotten, kept, alpha=4.0, dampening=2.0).tolist() == [0.25, 1.0, 1.0, 1.0, 0.0]
    assert ssd.factors(forgotten, kept, alpha=1.0, dampening=8.0).tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_no_parameter_grows_and_equal_importance_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    forgotten, kept = (torch.rand(2, 500, generator=generator) * 3) ** 4
    for alpha in (0.1, 1.0, 10.0):
        for dampening in (0.1, 1.0, 5.0):
            factors = ssd.factors(forgotten, kept, alpha, dampening)
            assert ((factors >= 0) & (factors <= 1)).all()
    assert (ssd.factors(forgotten, forgotten, 1.0, 1.0) == 1).all()
    assert (ssd.factors(forgotten, kept, float("inf"), 1.0) == 1).all()


def test_importance_is_the_mean_of_squared_gradients_of_single_examples(tiny: RunningModel) -> None:
    examples = tokenize(tiny.tokenizer, RETAIN)
    parameters = [*block_matrices(tiny).values()]
    with trainable(tiny.model, every=True):
        found = ssd.importance(tiny, parameters, examples)
        expected = [torch.zeros_like(parameter) for parameter in parameters]
        for example in examples:
            loss = -answer_sum(tiny, example) / len(example.answer)
            for total, gradient in zip(expected, torch.autograd.grad(loss, parameters), strict=True):
                total += gradient**2 / len(examples)
        batch = torch.autograd.grad(answer_loss(tiny, pack([*enumerate(examples)])), parameters)
    for one, other, gradient in zip(found, expected, batch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)
        assert not torch.allclose(one, gradient**2, rtol=0.1)


def test_it_dampens_what_only_the_forgotten_answers_need(tiny: RunningModel) -> None:
    apart = [FORGET[0], Example("Question: Which city has canals?\nAnswer:", " Venice")]
    for _ in fine_tune(tiny, [*apart, *RETAIN], [80], FineTuning(2e-2)):
        pass

    def measure(examples: list[Example]) -> float:
        with torch.no_grad():
            return sum(answer_sum(tiny, one).item() for one in tokenize(tiny.tokenizer, examples))

    before = {name: value.detach().clone() for name, value in tiny.model.named_parameters()}
    forget, retain = measure(apart), measure(RETAIN)
    record = ssd.unlearn(tiny, apart, RETAIN, ssd.SSDSettings(alpha=20.0))
    assert forget - measure(apart) > 2 * (retain - measure(RETAIN)) > -0.1
    assert record.trajectory == ()
    for name, value in tiny.model.named_parameters():
        if name in record.changed["share_dampened"]:
            assert (value.abs() <= before[name].abs()).all()
            assert 0 <= record.changed["share_dampened"][name] < 0.5
        else:
            assert torch.equal(value, before[name])
