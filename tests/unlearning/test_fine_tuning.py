"""Fine-tuning in place: it learns, its doses are cumulative, and the weights come back bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_logprobs, pack, tokenize
from audit.unlearning.fine_tuning import FineTuning, fine_tune, preserved, trained_tokens
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import write_tiny

EXAMPLES = [*FORGET, *RETAIN]
FAST = FineTuning(learning_rate=2e-2, batch=3)


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def weights(model: RunningModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def same(model: RunningModel, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())


def loss(model: RunningModel, examples: list[Example]) -> float:
    row = pack(list(enumerate(tokenize(model.tokenizer, examples))))
    with torch.no_grad():
        return float(-answer_logprobs(model, row).gather(1, row.targets[:, None]).mean())


def test_the_weights_are_restored_bit_for_bit_after_the_block(tiny: RunningModel) -> None:
    before = weights(tiny)
    with preserved(tiny):
        assert list(fine_tune(tiny, EXAMPLES, (3,), FAST)) == [3]
        assert not same(tiny, before)
    assert same(tiny, before)


def test_the_weights_are_restored_after_an_error_inside_the_block(tiny: RunningModel) -> None:
    before = weights(tiny)

    def fail() -> None:
        with preserved(tiny):
            for _ in fine_tune(tiny, EXAMPLES, (2, 4), FAST):
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(tiny, before)


def test_the_weights_are_restored_after_a_loss_that_is_not_finite(tiny: RunningModel) -> None:
    before = weights(tiny)

    def diverge() -> None:
        with preserved(tiny):
            with torch.no_grad():
                tiny.model.model.norm.weight.fill_(torch.inf)
            list(fine_tune(tiny, EXAMPLES, (2,), FAST))

    with pytest.raises(ModelError, match="Lower the learning rate"):
        diverge()
    assert same(tiny, before)


def test_neither_gradients_nor_their_flags_are_left_behind(tiny: RunningModel) -> None:
    flags = [parameter.requires_grad for parameter in tiny.model.parameters()]
    with preserved(tiny):
        for _ in fine_tune(tiny, EXAMPLES, (1, 2), FAST):
            assert [parameter.requires_grad for parameter in tiny.model.parameters()] == flags
    assert [parameter.requires_grad for parameter in tiny.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


def test_training_lowers_the_loss_more_with_more_steps(tiny: RunningModel) -> None:
    losses = [loss(tiny, EXAMPLES)]
    with preserved(tiny):
        losses += [loss(tiny, EXAMPLES) for _ in fine_tune(tiny, EXAMPLES, (5, 20), FAST)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.7 * losses[0]
    assert loss(tiny, EXAMPLES) == losses[0]


def test_a_dose_is_the_state_after_so_many_steps_from_the_start(tiny: RunningModel) -> None:
    with preserved(tiny):
        assert list(fine_tune(tiny, EXAMPLES, (2, 5), FAST)) == [2, 5]
        in_two = weights(tiny)
    with preserved(tiny):
        list(fine_tune(tiny, EXAMPLES, (5,), FAST))
        assert same(tiny, in_two)


def test_the_seed_decides_the_order_of_examples(tiny: RunningModel) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        with preserved(tiny):
            list(fine_tune(tiny, EXAMPLES, (2,), FineTuning(2e-2, batch=1, seed=seed)))
            return weights(tiny)

    first, again, other = trained(0), trained(0), trained(3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_only_the_parameters_named_are_trained(tiny: RunningModel) -> None:
    before = weights(tiny)
    head = tiny.model.model.norm.weight
    with preserved(tiny):
        list(fine_tune(tiny, EXAMPLES, (2,), FAST, [head]))
        changed = {name for name, tensor in tiny.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"model.norm.weight"}


def test_without_examples_there_is_nothing_to_train(tiny: RunningModel) -> None:
    with pytest.raises(AuditError):
        list(fine_tune(tiny, [], (1,), FAST))
    assert trained_tokens([], tiny, 16) == 0


def test_the_tokens_of_a_step_are_those_of_its_examples(tiny: RunningModel) -> None:
    total = sum(len(each.inputs) for each in tokenize(tiny.tokenizer, EXAMPLES))
    assert trained_tokens(EXAMPLES, tiny, batch=100) == pytest.approx(total)
    assert trained_tokens(EXAMPLES, tiny, batch=2) == pytest.approx(2 * total / len(EXAMPLES))
    characters = sum(len(each.prompt) + len(each.answer) for each in EXAMPLES)
    assert trained_tokens(EXAMPLES, None, batch=100) == pytest.approx(characters / 4)


def test_the_end_of_the_text_is_learned_if_asked(tiny: RunningModel) -> None:
    def probability_of_the_end(ends: bool) -> float:
        with preserved(tiny):
            list(fine_tune(tiny, EXAMPLES, (20,), replace(FAST, ends=ends)))
            text = EXAMPLES[0].prompt + EXAMPLES[0].answer
            ids = torch.tensor([tiny.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                logits = tiny.model(ids).logits[0, -1]
        return float(logits.softmax(-1)[tiny.tokenizer.eos_token_id])

    assert probability_of_the_end(True) > 0.5 > probability_of_the_end(False)


def test_losses_are_those_of_each_batch_before_its_step(tiny: RunningModel) -> None:
    losses: list[float] = []
    with preserved(tiny):
        first = loss(tiny, EXAMPLES)
        whole = replace(FAST, batch=len(EXAMPLES))
        list(fine_tune(tiny, EXAMPLES, (3,), whole, losses=losses))
    assert losses[0] == pytest.approx(first, rel=1e-3)
    assert len(losses) == 3
    assert losses[2] < losses[0]
