"""One layer's FFN comes out in one orientation for every family, proven by running it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from audit.checkpoint.config import read_config
from audit.mlp import read_mlp, unembedding, value_vectors
from tests.tiny import FAMILIES, VOCABULARY, write_tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_of_coefficients_times_value_vectors_is_the_ffn(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    folder = write_tiny(tmp_path / "model", family, dtype=dtype)
    checkpoint, architecture = open_checkpoint(folder), identify(open_checkpoint(folder), read_config(folder))
    assert architecture is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layer = 1
    ffn = model.get_submodule(architecture.out_module.format(layer=layer).rpartition(".")[0])
    out = model.get_submodule(architecture.out_module.format(layer=layer))
    keys: list[torch.Tensor] = []
    handle = out.register_forward_pre_hook(lambda module, inputs: keys.append(inputs[0]))
    x = torch.randn(1, 5, architecture.d_model, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = ffn(x)
    handle.remove()
    mlp = read_mlp(checkpoint, architecture, layer)
    assert mlp.W_in.shape == mlp.W_out.shape == (architecture.d_mlp, architecture.d_model)
    assert mlp.W_in.dtype == mlp.W_out.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(keys[0] @ mlp.W_out + (out.bias if family == "gpt2" else 0), expected, atol=1e-5)
        pre = x @ mlp.W_in.T
        gated = mlp.W_gate is not None
        recomputed = ffn.act_fn(x @ mlp.W_gate.T) * pre if gated else ffn.act(pre + ffn.c_fc.bias)
        assert torch.allclose(recomputed, keys[0], atol=1e-5)
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


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_outside_the_model_is_an_error_with_the_range(tmp_path: Path, layer: int) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model"))
    architecture = identify(checkpoint, None)
    assert architecture is not None
    with pytest.raises(IndexError, match="llama here has layers 0 to 1"):
        value_vectors(checkpoint, architecture, layer)
