"""torch state dicts (.pt, .pth, .bin). Nothing is unpickled in this process.

A pickle can run commands, and ``torch.load`` has had holes even where it is restricted (CVE-2025-32434,
CVE-2026-24747). So a process of its own, with limits of memory and time, reads the pickle and reports where each tensor
is in the file (see ``torch_pickle``); its report is checked against the file before a byte of a tensor is read.
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

from audit.checkpoint.formats.torch_pickle.records import DISTRUST, DOWNLOAD_AGAIN, ITEM_SIZES, SAVE_AS_SAFETENSORS
from audit.checkpoint.weight_file import Format, TensorInfo, are_naturals, is_shape, numel, read_block
from audit.errors import CheckpointError

MEMORY_LIMIT: Final = 2 * 2**30
"""Bytes of address space for reading the pickle; that of a model of 10^5 tensors takes a tenth."""

TIME_LIMIT: Final = 60
"""Seconds of processor time for reading the pickle; that of a model of 10^5 tensors takes three."""

WAIT_LIMIT: Final = 300
"""Seconds to wait for the process, which may read from a slow disk."""

READ_PICKLE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from torch_pickle.process import main; main(*sys.argv[2:])"
)
"""The program of that process. It starts isolated and without site packages (-I -S), and the folder of ``torch_pickle``
comes last on its path, so that no file in it can take the place of the standard library."""

DTYPES: Final = {
    name: getattr(torch, name)
    for name in ITEM_SIZES
    if not name.startswith(("complex", "q"))  # no metric reads them
}


@dataclass(frozen=True)
class _Location:
    """The position of a tensor's first byte in the file, and its strides in elements."""

    begin: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class TorchFile:
    """A verified state dict, in a zip archive or in the format before torch 1.6."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    locations: Mapping[str, _Location]
    notes: tuple[str, ...]
    format: Format = "torch"

    def tensor(self, name: str) -> torch.Tensor:
        return self._read(name, 0, self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        _, *rest = self.tensors[name].shape
        return self._read(name, start, (stop - start, *rest))

    def _read(self, name: str, first_row: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Read from the first element to the last, then drop the elements between them that the view skips."""
        dtype, stride = self.tensors[name].dtype, self.locations[name].stride
        skipped = first_row * stride[0] if first_row else 0
        begin = self.locations[name].begin + skipped * dtype.itemsize
        block = read_block(self.path, begin, _span(shape, stride) * dtype.itemsize)
        return block.view(dtype).as_strided(shape, stride).contiguous()


def open_torch(path: Path) -> TorchFile:
    """Open a torch file: have its pickle read, and check the report against the file.

    Raises:
        CheckpointError: damaged, not only tensors, or beyond the limits.
    """
    report = _read_pickle(path)
    if "error" in report:
        raise CheckpointError(report["error"], where=str(path), hint=report["hint"])
    size = path.stat().st_size
    checked = {name: _check_entry(name, entry, size, path) for name, entry in report["tensors"].items()}
    return TorchFile(
        path=path,
        tensors={name: info for name, (info, _) in checked.items()},
        locations={name: location for name, (_, location) in checked.items()},
        notes=tuple(report["notes"]),
    )


def _read_pickle(path: Path) -> dict[str, Any]:
    """The document that ``torch_pickle.process`` writes about the file."""
    arguments = [str(Path(__file__).parent), str(path), str(MEMORY_LIMIT), str(TIME_LIMIT)]
    command = [sys.executable, "-I", "-S", "-c", READ_PICKLE, *arguments]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_LIMIT, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"reading its pickle was stopped: it takes more than {TIME_LIMIT} seconds, or crashes the reader.",
            where=str(path),
            hint=DISTRUST,
        ) from error
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def _check_entry(name: str, entry: Mapping[str, Any], size: int, path: Path) -> tuple[TensorInfo, _Location]:
    """One tensor of the report, as info and location.

    Raises:
        CheckpointError: malformed, of an unsupported number format, not inside the file of ``size`` bytes, or larger
            than the file: with a stride of 0, a few bytes can claim any shape.
    """
    shape, stride, begin = entry["shape"], entry["stride"], entry["begin"]
    if not is_shape(shape) or not are_naturals([*stride, begin]) or len(stride) != len(shape):
        raise CheckpointError(f"the description of {name} is malformed.", where=str(path), hint=DOWNLOAD_AGAIN)
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{name} has the number format {entry['dtype']}, which is not supported.",
            where=str(path),
            hint=SAVE_AS_SAFETENSORS,
        )
    info = TensorInfo(name, tuple(shape), DTYPES[entry["dtype"]], path.name)
    location = _Location(begin, tuple(stride))
    if info.nbytes > size:
        raise CheckpointError(f"{name} claims {info.nbytes:,} bytes in a file of {size:,}.", where=str(path))
    end = location.begin + _span(info.shape, location.stride) * info.dtype.itemsize
    if end > size:
        raise CheckpointError(
            f"the file ends within {name} and is {end - size:,} bytes short: an incomplete download?",
            where=str(path),
            hint=DOWNLOAD_AGAIN,
        )
    return info, location


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Number of elements from a view's first to its last, those between included."""
    if numel(shape) == 0:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
