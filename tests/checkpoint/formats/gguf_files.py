"""GGUF files for tests: a complete model, and headers packed by hand so that they can be damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import torch

from audit.architectures import families

HEADS = {"attn_q": 4, "attn_k": 2}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """The row order of llama.cpp's converter, from its definition: within a head, row i and row i + half alternate."""
    half = rows.shape[0] // heads // 2
    order = [head * 2 * half + i + side * half for head in range(heads) for i in range(half) for side in (0, 1)]
    return rows[order]


def write_gguf(
    path: Path, state: dict[str, torch.Tensor], kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
) -> Path:
    """A llama GGUF of ``state``; matrices whose rows are whole blocks are quantised as ``kind``."""
    (family,) = (family for family in families() if family.gguf)
    assert family.gguf is not None
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(state["model.norm.weight"].shape[0])
    writer.add_feed_forward_length(state["model.layers.0.mlp.up_proj.weight"].shape[0])
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(256)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    for pattern, target in family.gguf.tensors.items():
        for layer in range(2) if "{layer}" in pattern else [0]:
            name = target.format(layer=layer)
            if name not in state:
                continue
            values = state[name].numpy()
            heads = next((n for part, n in HEADS.items() if f".{part}." in pattern), None)
            values = interleaved(values, heads) if heads else values
            block = gguf.GGML_QUANT_SIZES[kind][0]
            used = kind if values.ndim == 2 and values.shape[1] % block == 0 else gguf.GGMLQuantizationType.F32
            stored = gguf.quants.quantize(np.ascontiguousarray(values), used)
            writer.add_tensor(pattern.format(layer=layer), stored, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str, shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    """One line of the tensor table; ``shape`` as stored, the fastest axis first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def pack(
    metadata: dict[str, str | bytes],
    tensors: tuple[bytes, ...] = (entry("output_norm.weight"),),
    data: bytes = bytes(32),
    version: int = 3,
) -> bytes:
    """A GGUF file; a metadata value in bytes is its raw type and content."""
    metadata = {"general.architecture": "llama", **metadata}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + (value if isinstance(value, bytes) else struct.pack("<I", 8) + text(value))
    head += b"".join(tensors)
    return head + bytes(-len(head) % 32) + data
