"""One layer's FFN comes out in one orientation for every family, proven by running it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from audit.architectures import Architecture, identify
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import read_config
from audit.models.ffn import read_ffn, unembedding, value_vectors
from tests.tiny import DENSE, FAMILIES, VOCABULARY, write_tiny

READERS = {"phi3": "mlp.gate_up_proj", "gpt2": "mlp.c_fc", "gptj": "mlp.fc_in", "opt": "fc1"} | dict.fromkeys(
    ("bloom", "falcon", "gpt_neox"), "mlp.dense_h_to_4h"
)
"""The module, within a block, whose input the FFN reads, where it is not ``mlp.up_proj``."""
ACTIVATIONS = ("mlp.act_fn", "mlp.act", "mlp.activation_fn", "mlp.gelu_impl", "activation_fn")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", DENSE)
def test_the_sum_of_coefficients_times_value_vectors_is_the_ffn(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    folder = write_tiny(tmp_path / "model", family, dtype=dtype)
    checkpoint, architecture = open_checkpoint(folder), identify(open_checkpoint(folder), read_config(folder))
    assert architecture is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layer = 1
    block = model.get_submodule(architecture.block_module.format(layer=layer))
    out = model.get_submodule(architecture.out_module.format(layer=layer))
    (read,), _ = passed_through(model, block.get_submodule(READERS.get(family, "mlp.up_proj")))
    (keys,), written = passed_through(model, out)
    mlp = read_ffn(checkpoint, architecture, layer)
    assert mlp.W_in.shape == mlp.W_out.shape == (architecture.d_mlp, architecture.d_model)
    assert mlp.W_in.dtype == mlp.W_out.dtype == torch.float32
    assert torch.allclose(keys @ mlp.W_out + bias(checkpoint, architecture, "out_bias", layer), written, atol=1e-5)
    names = {name for name, _ in block.named_modules()}
    activation = block.get_submodule(next(name for name in ACTIVATIONS if name in names))
    pre = read @ mlp.W_in.T + bias(checkpoint, architecture, "in_bias", layer)
    recomputed = activation(pre) if mlp.W_gate is None else activation(read @ mlp.W_gate.T) * pre
    assert torch.allclose(recomputed, keys, atol=1e-5)
    assert keys.abs().max() > 0.1
    assert torch.equal(value_vectors(checkpoint, architecture, layer), mlp.W_out)
    assert mlp.W_out.is_contiguous()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_unembedding_is_the_head_that_runs(tmp_path: Path, family: str, tie: bool) -> None:
    folder = write_tiny(tmp_path / "model", family, tie=tie)
    architecture = identify(open_checkpoint(folder), read_config(folder))
    assert architecture is not None
    W_U = unembedding(open_checkpoint(folder), architecture)
    head = AutoModelForCausalLM.from_pretrained(folder).get_output_embeddings().weight
    assert W_U.shape == (VOCABULARY, architecture.d_model)
    assert torch.equal(W_U, head)


def passed_through(model: torch.nn.Module, module: torch.nn.Module) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """A module's inputs and output during a forward pass over a few tokens; Falcon adds to the output in place."""
    seen: list[tuple[tuple[torch.Tensor, ...], torch.Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output.clone())))
    with torch.no_grad():
        model(torch.arange(3, 20)[None])
    handle.remove()
    (both,) = seen
    return both


def bias(checkpoint: Checkpoint, architecture: Architecture, role: str, layer: int) -> torch.Tensor:
    """The bias of that role, zero where the family has none."""
    if role not in {its for its, _ in architecture.roles.values()}:
        return torch.zeros(())
    return checkpoint.tensor(architecture.names(role)[layer]).float()


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_outside_the_model_is_an_error_with_the_range(tmp_path: Path, layer: int) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model"))
    architecture = identify(checkpoint, None)
    assert architecture is not None
    with pytest.raises(IndexError, match="llama here has layers 0 to 1"):
        value_vectors(checkpoint, architecture, layer)
