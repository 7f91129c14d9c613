"""A tiny Llama as a state dict and as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoint.formats.gguf_files import write_gguf
from tests.tiny import write_tiny


@pytest.fixture
def llama_state(tmp_path: Path) -> dict[str, torch.Tensor]:
    folder = write_tiny(tmp_path / "model", hidden_size=32, intermediate_size=64)
    return load_file(folder / "model.safetensors")


@pytest.fixture
def llama_gguf(tmp_path: Path, llama_state: dict[str, torch.Tensor]) -> Path:
    return write_gguf(tmp_path / "model.gguf", llama_state)
