"""``Checkpoint``: a read-only view of one model's weights, whatever format stores them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from audit.checkpoint.row_blocks import row_blocks
from audit.checkpoint.runtime_parameters import RuntimeParameter, TensorPart
from audit.checkpoint.weight_file import Format, TensorInfo, WeightFile, sha256
from audit.result import FileRecord


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A read-only view of one model's weights. Tensors are read on demand; ``open_checkpoint`` makes it.

    Attributes:
        path: the file or folder that the user named.
        format: how the weights are stored.
        tensors: by canonical name; ``notes`` says which prefixes were removed or added.
        notes: what was ignored or normalised while opening, as sentences for the report.
        config_dir: the folder of the weights if it contains a ``config.json``, otherwise ``None``.
        runtime_parameters: parameters of the running model that the file stores under another name or in parts.
    """

    path: Path
    format: Format
    tensors: Mapping[str, TensorInfo]
    notes: tuple[str, ...]
    config_dir: Path | None
    runtime_parameters: Mapping[str, RuntimeParameter]
    _files: tuple[WeightFile, ...]
    _parts: Mapping[str, TensorPart]

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in shard order."""
        return tuple(file.path for file in self._files)

    def tensor(self, name: str) -> torch.Tensor:
        """A copy of one tensor in the file's dtype (GGUF: float32).

        Raises:
            KeyError: no tensor has this name.
        """
        return self._parts[name].tensor()

    def parameter(self, name: str) -> torch.Tensor:
        """The value of the running model's parameter ``name``, in the file's dtype.

        Raises:
            KeyError: the file stores no such parameter.
        """
        parameter = self.runtime_parameters.get(name)
        return self.tensor(name) if parameter is None else parameter.join(self.tensor)

    def stored_names(self, parameter: str) -> tuple[str, ...]:
        """The tensors that make up the running model's ``parameter``: usually one, of the same name."""
        runtime = self.runtime_parameters.get(parameter)
        return (parameter,) if runtime is None else tuple(chain.from_iterable(runtime.experts))

    def rows(self, name: str, start: int, stop: int) -> Shaped[Tensor, "rows ..."]:
        """Rows ``start`` to ``stop`` (exclusive) of the first axis; where the format allows, no others are read.

        Raises:
            IndexError: the range is not inside the tensor.
        """
        part = self._parts[name]
        length = self.tensors[name].shape[0]
        if not 0 <= start <= stop <= length:
            raise IndexError(f"rows {start}:{stop} of {name}, which has rows 0:{length}")
        return part.rows(start, stop)

    def blocks(self, name: str, max_elements: int) -> Iterator[torch.Tensor]:
        """The tensor in blocks of rows, first to last, each of at most ``max_elements`` elements (at least one row)."""
        shape = self.tensors[name].shape
        for rows in row_blocks(shape, max_elements):
            yield self.rows(name, rows.start, rows.stop) if shape else self.tensor(name)

    def file_records(self) -> list[FileRecord]:
        """Name, size and SHA-256 of each weight file; computed once."""
        return self._file_records

    @cached_property
    def _file_records(self) -> list[FileRecord]:
        return [FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256(path)) for path in self.files]
