"""Interventions: they change the chosen value vectors and nothing else, however a family stores them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize

from audit import interventions
from audit.checkpoint import open_checkpoint
from audit.errors import AuditError, ConceptError, ModelError
from audit.interventions import (
    Change,
    EditInputs,
    apply,
    by_layer,
    demote,
    dose,
    methods,
    needle,
    project,
    stored_rows,
)
from audit.models.ffn import value_rows, value_vectors
from audit.models.loading import RunningModel
from audit.models.packing import answer_logprobs, pack, tokenize
from audit.unlearning.methods.npo import NPOSettings
from concepts.neuron import Neuron
from tests.helpers import FORGET, RETAIN, Log, answer_sum, open_model
from tests.tiny import DENSE, TRAINABLE, write_tiny

CHOSEN = [Neuron(1, 3), Neuron(1, 30), Neuron(0, 7)]
SETTINGS = NPOSettings(steps=20, learning_rate=0.05, forget_batch=2, retain_batch=2)
METHODS = tuple(methods())


def test_every_file_of_the_folder_is_a_method() -> None:
    folder = Path(interventions.__file__).parent
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(METHODS)


def target_of(model: RunningModel, method: str, **changes: Any) -> Change:
    W_U = model.model.get_output_embeddings().weight.detach().clone()
    inputs = EditInputs(np.array([5, 40, 77, 123]), W_U, FORGET, RETAIN, **changes)
    return methods()[method].target(model, CHOSEN, inputs)


@pytest.mark.parametrize("family", DENSE)
def test_value_rows_are_the_value_vectors_that_the_audit_reads(family: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / family, family)
    model = open_model(folder)
    for layer in range(model.architecture.n_layers):
        stored = value_vectors(open_checkpoint(folder), model.architecture, layer)
        assert torch.equal(value_rows(model, layer), stored)


@pytest.mark.parametrize("method", METHODS)
def test_the_neurons_of_experts_are_not_edited_one_by_one(method: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "mixtral", "mixtral"))
    with pytest.raises(ModelError, match="value vectors of mixtral cannot be edited"):
        target_of(model, method)


@pytest.mark.usefixtures("short_needle")
@pytest.mark.parametrize(
    ("method", "family"),
    [(name, family) for name in METHODS for family in DENSE if name != "needle" or family in TRAINABLE],
)
def test_an_edit_changes_the_chosen_rows_and_no_other_bit(method: str, family: str, tmp_path: Path) -> None:
    """The head is not changed either, which methods read and which may be the embedding."""
    model = open_model(write_tiny(tmp_path / family, family))
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    original = stored_rows(model, CHOSEN)
    target = target_of(model, method)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())
    apply(model, target)
    for layer, rows in target.items():
        assert torch.equal(value_rows(model, layer)[list(rows.neurons)], rows.values)
        assert not torch.equal(rows.values, original[layer].values)
    assert [(layer, *rows.neurons) for layer, rows in target.items()] == [(0, 7), (1, 3, 30)]
    apply(model, original)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())


@pytest.mark.usefixtures("short_needle")
@pytest.mark.parametrize("method", METHODS)
def test_the_strength_goes_from_nothing_to_the_method_in_full(method: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    original, target = stored_rows(model, CHOSEN), target_of(model, method)
    for layer in original:
        none, half, full = (dose(model, target, strength)[layer].values for strength in (0, 0.5, 1))
        assert torch.equal(none, original[layer].values)
        assert torch.equal(full, target[layer].values)
        assert torch.allclose(half, (none + full) / 2, atol=1e-6)


def test_zero_is_zero_and_mean_is_the_mean_of_the_layer(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    assert not any(rows.values.any() for rows in target_of(model, "zero").values())
    rows = target_of(model, "mean")[1]
    assert torch.allclose(rows.values[0], value_rows(model, 1).mean(dim=0), atol=1e-6)
    assert torch.equal(rows.values[0], rows.values[1])


def test_noise_has_the_norm_of_the_vector_or_the_deviation_of_the_paper(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    original = stored_rows(model, CHOSEN)[1].values
    draws = torch.stack([target_of(model, "noise", seed=seed)[1].values - original for seed in range(300)])
    ratio = draws.square().mean(dim=(0, 2)) / original.square().mean(dim=1)
    assert ratio.tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    raw = torch.stack([target_of(model, "noise", seed=seed, raw=True)[1].values - original for seed in range(300)])
    assert float(raw.std()) == pytest.approx(0.1, rel=0.05)
    again = target_of(model, "noise", seed=7)[1].values
    assert torch.equal(again, target_of(model, "noise", seed=7)[1].values)
    alone = methods()["noise"].target(model, [CHOSEN[1]], EditInputs(np.array([5]), torch.eye(16), seed=7))
    assert torch.equal(alone[1].values[0], again[1])  # independent of which others are chosen


def test_a_projection_removes_the_subspace_and_nothing_else(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    W_U = model.model.get_output_embeddings().weight.detach().clone()
    inputs = EditInputs(np.array([5, 40]), W_U)
    basis = project.token_subspace(inputs)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-5)
    before, after = stored_rows(model, CHOSEN)[1].values, project.target(model, CHOSEN, inputs)[1].values
    assert torch.allclose(after @ basis.T, torch.zeros(2, len(basis)), atol=1e-5)
    moved = before - after
    assert torch.allclose(moved, (moved @ basis.T) @ basis, atol=1e-5)
    every = project.target(model, CHOSEN, replace(inputs, everywhere=True))
    assert [len(rows.neurons) for rows in every.values()] == [model.architecture.d_mlp] * model.architecture.n_layers
    assert torch.allclose(every[1].values[[3, 30]], after, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_demoted_tokens_end_at_the_floor_by_the_smallest_change(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    W_U, vector = torch.randn(300, 24, generator=generator), torch.randn(24, generator=generator)
    tokens = (sign * (W_U @ vector)).topk(6).indices.numpy()
    floor = float((sign * (W_U @ vector)).sort(descending=True).values[150])
    after = demote.demoted(vector, sign, EditInputs(tokens, W_U))
    assert (sign * (W_U[torch.from_numpy(tokens)] @ after)).max() <= floor + 1e-4

    constraints = LinearConstraint((sign * W_U[torch.from_numpy(tokens)]).numpy(), ub=np.full(6, floor))
    best = minimize(
        lambda v: 0.5 * np.sum((v - vector.numpy()) ** 2),
        np.zeros(24),
        jac=lambda v: v - vector.numpy(),
        method="SLSQP",
        constraints=[constraints],
    )
    assert float((after - vector).norm()) == pytest.approx(np.sqrt(2 * best.fun), rel=1e-3)


def test_a_vector_that_does_not_write_the_tokens_is_not_changed() -> None:
    W_U, vector = torch.eye(16), torch.arange(16.0)
    assert torch.equal(demote.demoted(vector, 1, EditInputs(np.array([0, 1]), W_U)), vector)


@pytest.mark.parametrize("method", ["demote", "project"])
def test_a_concept_without_tokens_is_an_error(method: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    with pytest.raises(ConceptError, match="no token of the concept"):
        methods()[method].target(model, CHOSEN, EditInputs(np.array([], dtype=int), torch.eye(16)))


@pytest.mark.parametrize("family", TRAINABLE)
def test_running_the_upper_layers_alone_gives_the_same_as_the_whole_model(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    tokens = [*enumerate(tokenize(model.tokenizer, [*FORGET, *RETAIN]))]
    rows = [pack(tokens[:3]), pack(tokens[3:]), pack([tokens[4], tokens[0], tokens[2]])]
    whole = [answer_logprobs(model, row) for row in rows]
    upper = needle.UpperLayers(model, lowest=1)
    ran: list[int] = []
    lowest = model.model.get_submodule(model.architecture.block_module.format(layer=0))
    inside = next(module for name, module in lowest.named_modules() if name.endswith("norm") or name == "ln_1")
    handle = inside.register_forward_hook(lambda module, inputs, output: ran.append(1))
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
    vectors = [Neuron(1, neuron) for neuron in range(20)]
    settings = NPOSettings(steps=30, learning_rate=0.1)
    record = needle.edit(model, vectors, FORGET, RETAIN, settings, log)
    after = measure()
    assert before[0] - after[0] > 10
    assert abs(before[1] - after[1]) < (before[0] - after[0]) / 2
    assert all(cosine < 0.999 for cosine in record.changed["cosines"])
    assert log.steps[-1] == ("Training 20 value vectors", 30, 30)
    assert record.trajectory[0]["W"] == pytest.approx(1.0, abs=1e-5)


def test_needle_saves_the_rows_that_it_trained(tmp_path: Path) -> None:
    """The saved rows give the log-ratio of the next step of a longer training."""
    short, long = (open_model(write_tiny(tmp_path / name)) for name in ("short", "long"))
    kept = NPOSettings(steps=5, learning_rate=0.05, forget_batch=2, retain_batch=3)
    needle.edit(short, CHOSEN, FORGET, RETAIN, kept)
    more = NPOSettings(steps=6, learning_rate=0.05, forget_batch=2, retain_batch=3)
    record = needle.edit(long, CHOSEN, FORGET, RETAIN, more)
    row = pack([*enumerate(tokenize(short.tokenizer, FORGET))])
    fresh = open_model(write_tiny(tmp_path / "fresh"))
    change = row.answer_sums(answer_logprobs(short, row)) - row.answer_sums(answer_logprobs(fresh, row))
    assert change.mean().item() == pytest.approx(record.trajectory[5]["log_ratio"], abs=1e-4)


def test_hooks_are_removed_when_training_fails(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    row = pack([*enumerate(tokenize(model.tokenizer, FORGET))])
    before = answer_logprobs(model, row)

    class Interrupting:
        def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
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
        ([Neuron(2, 0)], r"layer 2, neuron 0\) in a model of 2 layers of 40"),
        ([Neuron(0, 40)], "neuron 40"),
        ([Neuron(0, -1)], "neuron -1"),
        ([Neuron(0, 1), Neuron(0, 1)], "given twice"),
    ],
)
def test_vectors_that_do_not_exist_are_refused(vectors: list[Neuron], said: str, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=said):
        by_layer(open_model(write_tiny(tmp_path / "model")), vectors)


def test_the_cosine_with_a_zero_row_is_none(tmp_path: Path) -> None:
    from audit.interventions import cosines

    assert cosines(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0]])) == [1.0, None]
