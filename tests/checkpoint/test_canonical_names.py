"""Prefixes of tensor names: removed where all names have them, and left where only some do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.checkpoint import open_checkpoint
from tests.checkpoint.state_dicts import STATE, bits, write_state


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
