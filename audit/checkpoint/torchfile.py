"""torch state dicts (.pt, .pth, .bin): a process of its own reads the pickle, this one reads numbers only.

A pickle can run commands, and ``torch.load`` has had holes even where it is restricted (CVE-2025-32434,
CVE-2026-24747). So nothing is unpickled here: ``torch_pickle.py`` tells, under limits of memory and time, where each
tensor lies in the file, and what it tells is checked against the file before a byte is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from audit.checkpoint import torch_pickle
from audit.checkpoint.source import Format, TensorInfo, is_shape, naturals, numel, read_block
from audit.errors import CheckpointError

MEMORY_LIMIT: Final = 2 * 2**30
"""Bytes of address space for reading the pickle; that of a model of 10^5 tensors takes an eighth."""

TIME_LIMIT: Final = 60
"""Seconds of processor time for it; the same model takes three."""

PATIENCE: Final = 300
"""Seconds to wait for it, on a slow disk."""

DTYPES: Final = {
    name: getattr(torch, name)
    for name in torch_pickle.SIZES
    if not name.startswith(("complex", "q"))  # no metric reads them
}


@dataclass(frozen=True)
class _Place:
    """A tensor's first byte in the file, and its strides in elements."""

    begin: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class TorchFile:
    """A verified state dict, in a zip archive or in torch's older format."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    places: Mapping[str, _Place]
    notes: tuple[str, ...]
    format: Format = "torch"

    def tensor(self, name: str) -> torch.Tensor:
        return self._read(name, 0, self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        _, *rest = self.tensors[name].shape
        return self._read(name, start, (stop - start, *rest))

    def _read(self, name: str, first_row: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The bytes from the first element to the last, then those between them that are others' left out."""
        dtype, stride = self.tensors[name].dtype, self.places[name].stride
        skipped = first_row * stride[0] if first_row else 0
        n_elements = _span(shape, stride)
        block = read_block(self.path, self.places[name].begin + skipped * dtype.itemsize, n_elements * dtype.itemsize)
        return block.view(dtype).as_strided(shape, stride).contiguous()


def open_torch(path: Path) -> TorchFile:
    """Have the pickle read and check what it says against the file.

    Raises:
        CheckpointError: damaged, more than tensors, or beyond the limits.
    """
    told = _told(path)
    if "error" in told:
        raise CheckpointError(told["error"], where=str(path), hint=told["hint"])
    size = path.stat().st_size
    found = {name: _checked(name, entry, size, path) for name, entry in told["tensors"].items()}
    return TorchFile(
        path=path,
        tensors={name: info for name, (info, _) in found.items()},
        places={name: place for name, (_, place) in found.items()},
        notes=tuple(told["notes"]),
    )


def _told(path: Path) -> dict[str, Any]:
    """What ``torch_pickle`` prints about the file."""
    command = [sys.executable, "-I", "-S", torch_pickle.__file__, str(path), str(MEMORY_LIMIT), str(TIME_LIMIT)]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"reading its pickle was stopped: it takes more than {TIME_LIMIT} seconds, or crashes the reader.",
            where=str(path),
            hint=torch_pickle.DISTRUST_HINT,
        ) from error
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def _checked(name: str, entry: Mapping[str, Any], size: int, path: Path) -> tuple[TensorInfo, _Place]:
    """One tensor, no larger than the file (a stride of 0 lets a few bytes claim any shape) and inside it."""
    shape, stride, begin = entry["shape"], entry["stride"], entry["begin"]
    if not is_shape(shape) or not naturals([*stride, begin]) or len(stride) != len(shape):
        raise CheckpointError(f"the description of {name} is malformed.", where=str(path), hint=torch_pickle.AGAIN_HINT)
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{name} has the number format {entry['dtype']}, which is not supported.",
            where=str(path),
            hint=torch_pickle.SAVE_HINT,
        )
    info = TensorInfo(name, tuple(shape), DTYPES[entry["dtype"]], path.name)
    place = _Place(begin, tuple(stride))
    if info.nbytes > size:
        raise CheckpointError(f"{name} claims {info.nbytes:,} bytes in a file of {size:,}.", where=str(path))
    end = place.begin + _span(info.shape, place.stride) * info.dtype.itemsize
    if end > size:
        raise CheckpointError(
            f"the file ends within {name} and is {end - size:,} bytes short: an incomplete download?",
            where=str(path),
            hint=torch_pickle.AGAIN_HINT,
        )
    return info, place


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from a view's first to its last."""
    if numel(shape) == 0:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
