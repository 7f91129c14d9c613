"""``WeightFile``, the interface that each format implements, and what their implementations share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from audit.errors import CheckpointError

FileFormat = Literal["safetensors", "torch", "gguf"]
Format = FileFormat | Literal["adapter"]

MAX_DIMENSIONS: Final = 64


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a header describes it; ``file`` is the name of the weight file that contains it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str

    @property
    def nbytes(self) -> int:
        return numel(self.shape) * self.dtype.itemsize


@runtime_checkable
class WeightFile(Protocol):
    """One verified weight file. Opening reads its header only; no file stays open or mapped between calls."""

    @property
    def format(self) -> Format: ...

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def tensor(self, name: str) -> torch.Tensor:
        """A copy of the whole tensor."""

    def rows(self, name: str, start: int, stop: int) -> Shaped[Tensor, "rows ..."]:
        """Rows ``start`` to ``stop`` (exclusive) of the first axis; the caller has checked the range."""


def numel(shape: tuple[int, ...]) -> int:
    """Number of elements, in Python integers, which an absurd shape cannot overflow."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count


def are_naturals(value: Any) -> bool:
    """Whether ``value``, read from a file, is a list of non-negative integers below 2^63."""
    return isinstance(value, list) and all(type(entry) is int and 0 <= entry < 2**63 for entry in value)


def is_shape(value: Any) -> bool:
    """Whether ``value``, read from a file, is a shape. torch overflows on ``[0, 2**62, 4]``, so that is not one."""
    if not are_naturals(value) or len(value) > MAX_DIMENSIONS:
        return False
    return 0 not in value or numel(tuple(size or 1 for size in value)) < 2**63


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_block(path: Path, offset: int, nbytes: int) -> UInt8[Tensor, " nbytes"]:
    """``nbytes`` bytes of the file from ``offset`` on, as a uint8 tensor that owns its memory.

    Raises:
        CheckpointError: the file has become shorter since it was opened.
    """
    buffer = torch.empty(nbytes, dtype=torch.uint8)
    with path.open("rb") as stream:
        stream.seek(offset)
        n_read = stream.readinto(buffer.numpy().data)
    if n_read != nbytes:
        raise CheckpointError(
            f"the file has lost {nbytes - n_read} bytes since it was opened.",
            where=str(path),
            hint="Another process is writing to it; run the audit again when that has finished.",
        )
    return buffer
