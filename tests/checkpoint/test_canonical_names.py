"""Prefixes of tensor names: removed where all names have them, and left where only some do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from tests.checkpoint.state_dicts import STATE, bits, write_state
from tests.tiny import write_tiny


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_wrapper_prefixes_on_all_names_are_stripped_and_noted(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    checkpoint = open_checkpoint(write_state(tmp_path / "weights.safetensors", state))
    assert set(checkpoint.tensors) == set(STATE)
    assert bits(checkpoint.tensor("a.weight")) == bits(STATE["a.weight"])
    assert checkpoint.tensors["a.weight"].name == "a.weight"
    assert all(repr(part + ".") in " ".join(checkpoint.notes) for part in ("module", "_orig_mod") if part in prefix)
    assert checkpoint.notes


def test_a_prefix_on_some_names_is_left_alone(tmp_path: Path) -> None:
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    checkpoint = open_checkpoint(write_state(tmp_path / "weights.safetensors", state))
    assert set(checkpoint.tensors) == {"module.a", "b"}
    assert checkpoint.notes == ()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("copy", ["ema.", "teacher.average."])
def test_moving_averages_beside_a_language_model_are_left_out(tmp_path: Path, family: str, copy: str) -> None:
    """It is a model of its family as without them, and its weights are the plain ones."""
    plain = open_checkpoint(write_tiny(tmp_path / "plain", family))
    state = {name: plain.tensor(name) for name in plain.tensors}
    both = {**state, **{copy + name: tensor + 1 for name, tensor in state.items()}}
    checkpoint = open_checkpoint(write_state(tmp_path / "weights.safetensors", both))
    assert {name: bits(checkpoint.tensor(name)) for name in checkpoint.tensors} == {
        name: bits(tensor) for name, tensor in state.items()
    }
    assert f"left out {copy[:-1]!r}, a second set of the model's weights" in checkpoint.notes
    assert identify(checkpoint, None) is not None


def test_moving_averages_without_the_model_are_kept(tmp_path: Path) -> None:
    plain = open_checkpoint(write_tiny(tmp_path / "plain", "llama"))
    state = {f"ema.{name}": plain.tensor(name) for name in plain.tensors}
    assert set(open_checkpoint(write_state(tmp_path / "weights.safetensors", state)).tensors) == set(state)
