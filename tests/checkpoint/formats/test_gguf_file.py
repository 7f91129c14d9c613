"""GGUF files: the same names, orientation and numbers as safetensors."""

from __future__ import annotations

from pathlib import Path

import torch

from audit.checkpoint import open_checkpoint


def test_names_orientation_and_rotary_rows_are_those_of_safetensors(
    llama_gguf: Path, llama_state: dict[str, torch.Tensor]
) -> None:
    checkpoint = open_checkpoint(llama_gguf)
    assert checkpoint.format == "gguf"
    assert set(checkpoint.tensors) == set(llama_state)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in llama_state.items())
    assert checkpoint.notes == ("dequantised F32 to float32",)


def test_rows_are_rows_of_the_tensor_also_where_rotary_rows_move(
    llama_gguf: Path, llama_state: dict[str, torch.Tensor]
) -> None:
    checkpoint = open_checkpoint(llama_gguf)
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        assert torch.equal(checkpoint.rows(name, 3, 7), llama_state[name][3:7])
