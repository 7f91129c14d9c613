"""A state dict of every kind of number, and how tests write and compare one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "b.weight": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.float16),
    "double": torch.tensor([[0.1]], dtype=torch.float64),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([[-3, 4]], dtype=torch.int8),
    "none": torch.empty(0, 3),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_state(path: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A state dict in the format that the ending of ``path`` names."""
    state = STATE if state is None else state
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path
