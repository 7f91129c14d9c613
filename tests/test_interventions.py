"""Edits of chosen value vectors: they change these rows, nothing else, in every family's way of storing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from audit.checkpoint import open_checkpoint
from audit.errors import AuditError, ModelError
from audit.interventions import by_layer, methods, needle, value_rows, zero
from audit.mlp import value_vectors
from audit.running import RunningModel
from audit.unlearning.packing import answer_logprobs, pack, tokenize
from audit.unlearning.training import Record, Settings
from tests.test_unlearning import FORGET, RETAIN, Log, answer_sum, one_thread, open_model
from tests.tiny import DENSE, TRAINABLE, write_tiny

__all__ = ["one_thread"]  # a fixture used by every test here


@dataclass(frozen=True)
class Vector:
    layer: int
    neuron: int


CHOSEN = [Vector(1, 3), Vector(1, 30), Vector(0, 7)]
SETTINGS = Settings(steps=20, learning_rate=0.05, forget_batch=2, retain_batch=2)
EDITS: dict[str, Callable[[RunningModel], Record]] = {
    "zero": lambda model: zero.edit(model, CHOSEN),
    "needle": lambda model: needle.edit(model, CHOSEN, FORGET, RETAIN, SETTINGS),
}


def test_every_intervention_is_tested_here() -> None:
    assert list(methods()) == sorted(EDITS)


@pytest.mark.parametrize("family", DENSE)
def test_value_rows_are_the_value_vectors_that_the_audit_reads(family: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / family, family)
    model = open_model(folder)
    for layer in range(model.architecture.n_layers):
        stored = value_vectors(open_checkpoint(folder), model.architecture, layer)
        assert torch.equal(value_rows(model, layer), stored)


def test_the_neurons_of_experts_are_not_edited_one_by_one(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "mixtral", "mixtral"))
    for edit in EDITS.values():
        with pytest.raises(ModelError, match="value vectors of mixtral cannot be edited"):
            edit(model)


@pytest.mark.parametrize(
    ("edit", "family"),
    [(edit, family) for edit in EDITS for family in DENSE if edit == "zero" or family in TRAINABLE],
)
def test_an_edit_changes_the_chosen_rows_and_no_other_bit(edit: str, family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    record = EDITS[edit](model)
    rows = {layer: value_rows(model, layer).clone() for layer in (0, 1)}
    for layer, neuron in record.changed["value_vectors"]:
        old = before[model.architecture.names("W_out")[layer]]
        old = old if model.architecture.neuron_axis["W_out"] == 0 else old.T
        assert not torch.equal(rows[layer][neuron], old[neuron])
        value_rows(model, layer)[neuron] = old[neuron]
    assert sorted(map(tuple, record.changed["value_vectors"])) == [(0, 7), (1, 3), (1, 30)]
    after = model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    if edit == "zero":
        assert all(not rows[vector.layer][vector.neuron].any() for vector in CHOSEN)


@pytest.mark.parametrize("family", TRAINABLE)
def test_running_the_upper_layers_alone_gives_what_the_whole_model_gives(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    tokens = [*enumerate(tokenize(model.tokenizer, [*FORGET, *RETAIN]))]
    rows = [pack(tokens[:3]), pack(tokens[3:]), pack([tokens[4], tokens[0], tokens[2]])]
    whole = [answer_logprobs(model, row) for row in rows]
    upper = needle.UpperLayers(model, lowest=1)
    ran: list[int] = []
    lowest = model.model.get_submodule(model.architecture.block_module.format(layer=0))
    inside = next(module for name, module in lowest.named_modules() if name.endswith("norm") or name == "ln_1")
    handle = inside.register_forward_hook(lambda module, inputs, output: ran.append(1))
    with upper.bypassing():
        resumed = [upper.forward(row) for row in rows]
        assert len(ran) == 2  # the third row holds only examples that were read before
    handle.remove()
    for one, other in zip(whole, resumed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer_logprobs(model, rows[0]), whole[0])
    assert "forward" not in vars(lowest)


def test_needle_lowers_the_forgotten_answers_more_than_the_retained(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))

    def measure() -> tuple[float, float]:
        tokens = tokenize(model.tokenizer, [*FORGET, *RETAIN])
        sums = [answer_sum(model, one).item() for one in tokens]
        return sum(sums[: len(FORGET)]), sum(sums[len(FORGET) :])

    before, log = measure(), Log()
    vectors = [Vector(1, neuron) for neuron in range(20)]
    settings = Settings(steps=30, learning_rate=0.1)
    record = needle.edit(model, vectors, FORGET, RETAIN, settings, log)
    after = measure()
    assert before[0] - after[0] > 10
    assert abs(before[1] - after[1]) < (before[0] - after[0]) / 2
    assert all(cosine < 0.999 for cosine in record.changed["cosines"])
    assert log.steps[-1] == ("Training 20 value vectors", 30, 30)
    assert record.trajectory[0]["W"] == pytest.approx(1.0, abs=1e-5)


def test_needle_trains_what_it_saves(tmp_path: Path) -> None:
    """The rows written at the end give the loss that training would have gone on from."""
    short, long = (open_model(write_tiny(tmp_path / name)) for name in ("short", "long"))
    kept = Settings(steps=5, learning_rate=0.05, forget_batch=2, retain_batch=3)
    needle.edit(short, CHOSEN, FORGET, RETAIN, kept)
    more = Settings(steps=6, learning_rate=0.05, forget_batch=2, retain_batch=3)
    record = needle.edit(long, CHOSEN, FORGET, RETAIN, more)
    row = pack([*enumerate(tokenize(short.tokenizer, FORGET))])
    fresh = open_model(write_tiny(tmp_path / "fresh"))
    change = row.answer_sums(answer_logprobs(short, row)) - row.answer_sums(answer_logprobs(fresh, row))
    assert change.mean().item() == pytest.approx(record.trajectory[5]["log_ratio"], abs=1e-4)


def test_hooks_are_gone_when_training_fails(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    row = pack([*enumerate(tokenize(model.tokenizer, FORGET))])
    before = answer_logprobs(model, row)

    class Interrupting:
        def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
            if text.startswith("Training"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        needle.edit(model, CHOSEN, FORGET, RETAIN, SETTINGS, Interrupting())
    assert torch.equal(answer_logprobs(model, row), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([], "no value vectors"),
        ([Vector(2, 0)], r"layer 2, neuron 0\) in a model of 2 layers of 40"),
        ([Vector(0, 40)], "neuron 40"),
        ([Vector(0, -1)], "neuron -1"),
        ([Vector(0, 1), Vector(0, 1)], "given twice"),
    ],
)
def test_vectors_that_do_not_exist_are_refused(vectors: list[Vector], said: str, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=said):
        by_layer(open_model(write_tiny(tmp_path / "model")), vectors)


def test_the_cosine_with_a_zero_row_is_not_a_number_but_unknown(tmp_path: Path) -> None:
    from audit.interventions import cosines

    assert cosines(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0]])) == [1.0, None]
