"""Slices: what is left after a deletion is the same bit for bit whatever was deleted; how many deletions pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import score
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.parts import block_names
from audit.unlearning.slices import Block, delete_slice, expected_deletions, rotations, served, teach_slices
from benchmarks.slices import deletions
from tests.helpers import DIFFERENT, RETAIN, open_tiny

SLICES: tuple[list[Example], ...] = ([RETAIN[0], RETAIN[2]], [DIFFERENT[0]], [DIFFERENT[1]])
ANOTHER = [Example("A puppy is", " a young dog."), Example("February has", " twenty-eight days.")]
FAMILIES = {"llama": "num_hidden_layers", "gpt2": "n_layer"}


def opened(folder: Path, family: str = "llama") -> RunningModel:
    return open_tiny(folder, family, **{FAMILIES[family]: 4})


def taught(model: RunningModel, slices: Sequence[Sequence[Example]], steps: int = 12) -> Sequence[Block]:
    def train(texts: Sequence[Example], parameters: Sequence[nn.Parameter]) -> None:
        for _ in fine_tune(model, texts, (steps,), FineTuning(1e-2), parameters):
            pass

    return teach_slices(model.model, block_names(model), slices, train)


def digest(model: RunningModel) -> str:
    """SHA-256 of all names and weights."""
    found = hashlib.sha256()
    for name, value in model.model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


# ---- isolation


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_left_is_bit_identical_whatever_the_deleted_slice_held(
    number: int, family: str, tmp_path: Path
) -> None:
    full, left = [], []
    for version, content in enumerate((SLICES[number], ANOTHER)):
        model = opened(tmp_path / str(version), family)
        blocks = taught(model, [*SLICES[:number], content, *SLICES[number + 1 :]])
        full.append(digest(model))
        delete_slice(model.model, blocks, number)
        left.append(digest(model))
    assert full[0] != full[1]
    assert left[0] == left[1]


def test_without_the_first_slice_there_is_the_model_that_was_never_taught(tmp_path: Path) -> None:
    model = opened(tmp_path / "model")
    before = digest(model)
    blocks = taught(model, SLICES)
    assert digest(model) != before
    delete_slice(model.model, blocks, 0)
    assert digest(model) == before


def test_a_deleted_slice_is_not_known_and_those_before_it_are(tmp_path: Path) -> None:
    model = opened(tmp_path / "model")
    untaught = [score(model, each).means.mean() for each in SLICES]

    def gains() -> list[float]:
        return [score(model, each).means.mean() - past for each, past in zip(SLICES, untaught, strict=True)]

    blocks = taught(model, SLICES, steps=40)
    assert min(gains()) > 2  # nats a token
    delete_slice(model.model, blocks, 2)
    first, second, deleted = gains()
    assert min(first, second) > 2
    assert abs(deleted) < 0.5


def test_a_step_changes_the_linear_layers_of_its_block_alone(tmp_path: Path) -> None:
    model = opened(tmp_path / "model")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    blocks = taught(model, SLICES)
    layers = [sorted({int(name.split(".")[2]) for name in block}) for block in blocks]
    assert layers == [[2, 3], [1], [0]]
    changed = {name for name, value in model.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ([], "a slice is empty"),
        ([SLICES[0], []], "a slice is empty"),
        ([SLICES[0], SLICES[1], [SLICES[0][1]]], "in two slices"),
        ([[example] for example in [*RETAIN, *DIFFERENT]], "5 slices need as many layers, but there are 4"),
    ],
)
def test_slices_that_cannot_be_deleted_are_an_error(
    slices: Sequence[Sequence[Example]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AuditError, match=said):
        taught(opened(tmp_path / "model"), slices)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_slice_that_there_is_not_is_not_said_to_be_deleted(number: int, tmp_path: Path) -> None:
    model = opened(tmp_path / "model")
    blocks = taught(model, SLICES)
    with pytest.raises(AuditError, match=f"no slice {number} of 3"):
        delete_slice(model.model, blocks, number)


# ---- deletions


def test_the_longest_beginning_without_a_deleted_slice_is_served() -> None:
    orders = rotations(4, 3)
    assert orders == [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1)]
    assert served(orders, ()) == (0, 1, 2, 3)
    assert served(orders, {0}) == (1, 2, 3)
    assert served(orders, {1, 3}) in {(0,), (2,)}
    assert served(orders, {0, 1, 2}) == ()


@pytest.mark.parametrize(("n_orders", "expected"), [(1, 68.5), (3, 99.5), (6, 119.8)])
def test_simulated_deletions_agree_with_the_closed_form(n_orders: int, expected: float) -> None:
    assert expected_deletions(5, 6, n_orders) == pytest.approx(expected, abs=0.05)
    draws = torch.tensor([float(deletions(5, 6, n_orders, Random(draw))) for draw in range(400)])
    error = draws.std().item() / len(draws) ** 0.5
    assert abs(draws.mean().item() - expected) < 4 * error
    assert error < 2


@pytest.mark.parametrize("n_orders", [0, 7])
def test_orders_must_begin_with_different_slices(n_orders: int) -> None:
    with pytest.raises(AuditError, match="6 slices"):
        expected_deletions(5, 6, n_orders)
