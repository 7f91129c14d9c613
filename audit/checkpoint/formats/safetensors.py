"""safetensors files, with a header reader of our own.

The ``safetensors`` package accepts a header with a duplicate key and uses the last one, so the header is parsed and
checked here: its size is bounded, no key appears twice, the tensors cover every byte of the buffer exactly once, and
each has as many bytes as its shape and dtype need. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from audit.checkpoint.json_file import unique_keys
from audit.checkpoint.weight_file import Format, TensorInfo, are_naturals, is_shape, numel, read_block
from audit.errors import CheckpointError

HEADER_LIMIT: Final = 100_000_000  # bytes; the format's own limit

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class SafetensorsFile:
    """A verified safetensors file; ``offsets`` are the positions of the tensors' first bytes in the file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    notes: tuple[str, ...] = ()
    format: Format = "safetensors"

    def tensor(self, name: str) -> torch.Tensor:
        return self._read(name, 0, self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        _, *rest = self.tensors[name].shape
        return self._read(name, start, (stop - start, *rest))

    def _read(self, name: str, first_row: int, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = self.tensors[name].dtype
        row_bytes = numel(shape[1:]) * dtype.itemsize
        block = read_block(self.path, self.offsets[name] + first_row * row_bytes, numel(shape) * dtype.itemsize)
        return block.view(dtype).reshape(shape)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and verify the header of ``path``.

    Raises:
        CheckpointError: truncated, too long, malformed, or a tensor whose size in bytes does not match its shape.
    """
    header, data_start = _read_header(path)
    header.pop("__metadata__", None)
    entries = {name: _parse_entry(name, value, path) for name, value in header.items()}
    _check_coverage(entries, path.stat().st_size - data_start, path)
    tensors = {name: info for name, (info, _) in entries.items()}
    return SafetensorsFile(path, tensors, {name: data_start + begin for name, (_, begin) in entries.items()})


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as parsed JSON, and the position of the buffer that follows it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8:
            raise _truncated(path, 8 - size, "within its header")
        if length > HEADER_LIMIT:
            raise _malformed(path, f"its header would be {length:,} bytes long (at most {HEADER_LIMIT:,} are allowed)")
        if 8 + length > size:
            raise _truncated(path, 8 + length - size, "within its header")
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are both ValueErrors
        raise _malformed(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _malformed(path, "its header is not a JSON object")
    return header, 8 + length


def _parse_entry(name: str, value: Any, path: Path) -> tuple[TensorInfo, int]:
    """One header entry as (info, offset in the buffer), with its byte range checked against shape and dtype."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"its entry for {name} is not {{dtype, shape, data_offsets}}")
    stated, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    dtype = DTYPES.get(stated) if isinstance(stated, str) else None
    if dtype is None:
        shown = repr(stated) if isinstance(stated, str) else f"of type {type(stated).__name__}"
        raise CheckpointError(f"tensor {name} has dtype {shown}, which is not supported.", where=str(path))
    if not is_shape(shape) or not are_naturals(offsets) or len(offsets) != 2:
        raise _malformed(path, f"shape or offsets of {name} are not lists of non-negative integers")
    info = TensorInfo(name, tuple(shape), dtype, path.name)
    begin, end = offsets
    if end - begin != info.nbytes:
        raise _malformed(path, f"tensor {name} of shape {shape} needs {info.nbytes:,} bytes but has {end - begin:,}")
    return info, begin


def _check_coverage(entries: Mapping[str, tuple[TensorInfo, int]], buffer_bytes: int, path: Path) -> None:
    """Raises CheckpointError unless every byte of the buffer belongs to exactly one tensor."""
    position = 0
    for info, begin in sorted(entries.values(), key=lambda entry: (entry[1], entry[0].nbytes)):
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise _malformed(path, f"tensor {info.name} {problem} (it begins at {begin:,}, expected {position:,})")
        position += info.nbytes
    if position > buffer_bytes:
        raise _truncated(path, position - buffer_bytes, "within its tensors")
    if position < buffer_bytes:
        raise _malformed(path, f"{buffer_bytes - position:,} bytes follow the last tensor")


def _truncated(path: Path, missing: int, where: str) -> CheckpointError:
    return CheckpointError(
        f"the file ends {where} and is at least {missing:,} bytes short: an incomplete download?",
        where=str(path),
        hint="Download or save it again.",
    )


def _malformed(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"not a valid safetensors file: {reason}.", where=str(path), hint="Download or save it again."
    )
