"""What every weight format has in common: a file is looked at before it is trusted, and read piece by piece."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import torch

from audit.errors import CheckpointError

FileFormat = Literal["safetensors", "torch", "gguf"]
Format = FileFormat | Literal["adapter"]


ZIP_MAGIC: Final = b"PK\x03\x04"
PICKLE_MAGIC: Final = b"\x80\x02"
"""What torch.save writes since 1.6, and what it wrote before: a bare pickle of protocol 2."""

MAX_DIMENSIONS: Final = 64


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a header describes it; ``file`` is the name of the weight file that holds it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str

    @property
    def nbytes(self) -> int:
        return numel(self.shape) * self.dtype.itemsize


class WeightFile(Protocol):
    """One verified weight file. Opening reads its header only; nothing stays mapped or open between calls."""

    @property
    def format(self) -> Format: ...

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor in memory of its own."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the first axis; the range has been checked by the caller."""


def numel(shape: tuple[int, ...]) -> int:
    """Number of elements, in Python integers so that absurd shapes cannot overflow."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count


def naturals(value: Any) -> bool:
    """Whether ``value``, read from a file, is a list of whole numbers of at most 63 bits."""
    return isinstance(value, list) and all(type(entry) is int and 0 <= entry < 2**63 for entry in value)


def is_shape(value: Any) -> bool:
    """Whether ``value``, read from a file, is a shape; torch overflows on an empty tensor of huge other dimensions."""
    if not naturals(value) or len(value) > MAX_DIMENSIONS:
        return False
    return 0 not in value or numel(tuple(size or 1 for size in value)) < 2**63


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for ``json.loads``: a key given twice is a ValueError, where json takes the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice")
        found[key] = value
    return found


def detect(path: Path) -> FileFormat:
    """The format of a weight file, told from its first bytes and never from its name.

    Raises:
        CheckpointError: not a regular file, empty, a Git LFS pointer, a web page, or nothing we know.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError("not a regular file.", where=str(path), hint="Pass a weight file or its folder.")
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError("the file is empty.", where=str(path), hint="Download or save it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "a Git LFS pointer, not the weights themselves.", where=str(path), hint="Run `git lfs pull` there."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            "a web page, not weights: the download got an error page.", where=str(path), hint="Download it again."
        )
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[7:9] == b"\0{":  # end of the header length, then JSON. Tested first: a length of 640 begins like a pickle
        return "safetensors"
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        if path.suffix == ".safetensors":
            raise CheckpointError("a torch pickle under a safetensors name.", where=str(path), hint="Do not trust it.")
        return "torch"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise CheckpointError(
        f"not a weight file: it begins with {head[:8]!r}.",
        where=str(path),
        hint="Supported are .safetensors, torch state dicts (.pt, .pth, .bin) and .gguf.",
    )


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_block(path: Path, offset: int, nbytes: int) -> torch.Tensor:
    """``nbytes`` bytes of the file from ``offset`` on, as a uint8 tensor that owns its memory."""
    buffer = torch.empty(nbytes, dtype=torch.uint8)
    with path.open("rb") as stream:
        stream.seek(offset)
        got = stream.readinto(buffer.numpy().data)
    if got != nbytes:
        raise CheckpointError(
            f"{nbytes - got} bytes are gone since the file was opened.",
            where=str(path),
            hint="Something else is writing to it; run the audit again when it is done.",
        )
    return buffer
