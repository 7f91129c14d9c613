"""How a refused input is read, and what transformers makes of the same files without an exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from audit.checkpoint import open_checkpoint
from audit.errors import AuditError
from audit.models.opening import open_model
from tests.checkpoint.shards import PROBE

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = torch.arange(3, 30)[None]


def refusal(call: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    """The one line that a refused input gets."""
    with pytest.raises(AuditError) as caught:
        call(*arguments, **settings)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def naive(folder: Path) -> Any:
    """The model as transformers loads it, without an exception."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def naive_probe(folder: Path) -> torch.Tensor:
    weight: torch.Tensor = naive(folder).state_dict()[PROBE]
    return weight


def true_probe(folder: Path) -> torch.Tensor:
    return open_checkpoint(folder).tensor(PROBE)


def restate(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Replace the weights of ``folder`` by ``change`` of them."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def load(folder: Path) -> Any:
    return open_model(folder).load()
