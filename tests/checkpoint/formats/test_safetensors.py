"""safetensors headers: each kind of damage is refused in one line that says what is wrong, before any allocation."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from audit.checkpoint import open_checkpoint
from audit.errors import CheckpointError

WHOLE = save({"a": torch.arange(4.0), "b": torch.ones(2, 3)})
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def pack(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "truncated header length": (WHOLE[:5], "3 bytes short"),
    "truncated header": (WHOLE[:40], "ends within its header"),
    "truncated tensors": (WHOLE[:-10], "10 bytes short: an incomplete download"),
    "trailing bytes": (WHOLE + b"junk", "4 bytes follow the last tensor"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    "web page": (b"\n<!DOCTYPE html><html><title>404</title>", "a web page, not weights"),
    "error document": (b'{"error": "Repository not found"}', "at most 100,000,000 are allowed"),
    "header of 2^62 bytes": (struct.pack("<Q", 2**62) + b"{}", "at most 100,000,000 are allowed"),
    "header over the cap": (struct.pack("<Q", 10**8 + 1) + b"{" * 100, "at most 100,000,000 are allowed"),
    "not JSON": (pack(b"{nonsense}"), "not valid JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "not valid JSON"),
    "nested without end": (pack(b'{"a":' + b"[" * 100_000), "not valid JSON"),
    "a list": (pack(b" []"), "not a JSON object"),
    "duplicate key": (
        pack(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":' + json.dumps(F32).encode() + b"}", bytes(8)),
        "the key 'a' appears twice",
    ),
    "duplicate key inside": (
        pack(b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "the key 'dtype' appears twice",
    ),
    "entry without shape": (pack({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "its entry for a"),
    "unknown dtype": (pack({"a": {**F32, "dtype": "F3"}}, bytes(8)), "tensor a has dtype 'F3'"),
    "negative shape": (pack({"a": {**F32, "shape": [-2, -1]}}, bytes(8)), "non-negative integers"),
    "shape of booleans": (pack({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "non-negative integers"),
    "three offsets": (pack({"a": {**F32, "data_offsets": [0, 8, 9]}}, bytes(8)), "shape or offsets of a"),
    "absurd shape": (
        pack({"a": {**F32, "shape": [2**40, 2**40]}}, bytes(8)),
        f"needs {4 * 2**80:,} bytes but has 8",
    ),
    "bytes that do not fit": (pack({"a": {**F32, "shape": [3]}}, bytes(8)), "needs 12 bytes but has 8"),
    "a gap": (pack({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "leaves a gap before it"),
    "an overlap": (
        pack({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        "tensor b overlaps the tensor before it",
    ),
    "offsets past the end": (pack({"a": {**F32, "shape": [2**50], "data_offsets": [0, 2**52]}}), "bytes short"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_refused_and_named(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "model.safetensors", content)


def test_the_undamaged_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(WHOLE)
    assert torch.equal(open_checkpoint(tmp_path).tensor("b"), torch.ones(2, 3))


def test_a_duplicate_key_is_read_by_the_package_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED["duplicate key"][0])
    with safe_open(path, "pt") as reader:
        assert list(reader.keys()) == ["a"]
    assert load_file(path)["a"].shape == (2,)


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path: Path) -> None:
    header = json.dumps({"a": F32}).encode().ljust(0x0280)
    (tmp_path / "model.safetensors").write_bytes(pack(header, bytes(8)))
    assert torch.equal(open_checkpoint(tmp_path).tensor("a"), torch.zeros(2))


def test_metadata_is_not_a_tensor(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pack({"__metadata__": {"format": "pt"}, "a": F32}, bytes(8)))
    assert set(open_checkpoint(tmp_path).tensors) == {"a"}


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.001])
def test_a_truncated_download_is_reported_as_one(tmp_path: Path, fraction: float) -> None:
    whole = save({"w": torch.zeros(50_000)})
    message = refusal(tmp_path / "model.safetensors", whole[: int(len(whole) * fraction)])
    assert "short: an incomplete download" in message


def test_a_fifo_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            open_checkpoint(path)


def test_a_device_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(Path("/dev/zero"))


def test_a_file_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE)
    checkpoint = open_checkpoint(path)
    last = list(checkpoint.tensors)[-1]
    path.write_bytes(WHOLE[:-4])
    with pytest.raises(CheckpointError, match="the file has lost 4 bytes since it was opened"):
        checkpoint.tensor(last)


@given(position=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(WHOLE[:position] + bytes([byte]) + WHOLE[position + 1 :])
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    assert sum(checkpoint.tensor(name).nbytes for name in checkpoint.tensors) == 40
