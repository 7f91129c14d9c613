"""GGUF headers: damage is refused in one line, without a hang and without an allocation that the file demands."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit.checkpoint import open_checkpoint
from audit.errors import CheckpointError
from tests.checkpoint.formats.gguf_files import entry, pack, text


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


NORM = entry("output_norm.weight")
DAMAGED = {
    "big-endian": (pack({}, version=3 << 24), "big-endian"),
    "version 1": (pack({}, version=1), "version 1"),
    "key of 2^60 bytes": (pack({})[:24] + struct.pack("<Q", 2**60) + bytes(64), f"needs {2**60:,} bytes"),
    "2^60 metadata entries": (pack({})[:16] + struct.pack("<Q", 2**60) + pack({})[24:], "not a valid GGUF file"),
    "2^60 tensors": (pack({})[:8] + struct.pack("<Q", 2**60) + pack({})[16:], "not a valid GGUF file"),
    "array of 2^60 bytes": (pack({"x": struct.pack("<IIQ", 9, 0, 2**60)}), f"needs {2**60:,} bytes"),
    "array of 2^60 texts": (pack({"x": struct.pack("<IIQ", 9, 8, 2**60)}), "not a valid GGUF file"),
    "array of arrays": (pack({"x": struct.pack("<IIQ", 9, 9, 1)}), "unknown type 9"),
    "unknown value type": (pack({"x": struct.pack("<I", 77)}), "unknown type 77"),
    "text not UTF-8": (pack({"x": struct.pack("<IQ", 8, 1) + b"\xff"}), "not UTF-8"),
    "unknown quantisation": (pack({}, (entry("output_norm.weight", kind=999),)), "unknown quantisation type 999"),
    "quantisation without decoder": (
        pack({}, (entry("output_norm.weight", kind=int(gguf.GGMLQuantizationType.F64)),), bytes(64)),
        "quantisation F64 cannot be dequantised",
    ),
    "partial block": (pack({}, (entry("output_norm.weight", kind=8),)), "is not a multiple of Q8_0's block"),
    "absurd shape": (pack({}, (entry("output_norm.weight", (2**40, 2**40)),)), "bytes short: an incomplete download"),
    "no dimensions": (pack({}, (entry("output_norm.weight", ()),)), "has 0 dimensions"),
    "nine dimensions": (pack({}, (entry("output_norm.weight", (1,) * 9),)), "has 9 dimensions"),
    "the same tensor twice": (pack({}, (NORM, NORM)), "appears twice"),
    "overlap": (pack({}, (NORM, entry("token_embd.weight", (8, 1)))), "after 32 bytes of other tensors"),
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
    "number of heads absent": (pack({}, (entry("blk.0.attn_q.weight", (1, 8)),)), "llama.attention.head_count is None"),
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
    assert "not a valid GGUF file" in refusal(path)


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
