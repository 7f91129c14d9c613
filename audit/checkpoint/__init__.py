"""Bytes to tensors: read-only, verified, one tensor at a time.

``open_checkpoint(path)`` takes a weight file or a folder of them (safetensors, torch state dicts, GGUF), checks all
headers before anything else, and fetches tensors on demand, so that memory does not grow with the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from audit.checkpoint.adapter import open_adapter
from audit.checkpoint.folder import is_adapter, open_file, open_folder
from audit.checkpoint.memory import Joined, Place, canonical_places, joined_parameters
from audit.checkpoint.names import canonical_names
from audit.checkpoint.row_blocks import row_blocks
from audit.checkpoint.source import Format, TensorInfo, WeightFile, sha256
from audit.errors import CheckpointError
from audit.result import FileRecord

__all__ = [
    "Checkpoint",
    "Format",
    "TensorDigest",
    "TensorInfo",
    "combine_digests",
    "digest_tensor",
    "open_checkpoint",
    "tensor_digest",
]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A read-only view of one model's weights.

    Attributes:
        path: what the user named, a file or a folder.
        format: how the weights are stored.
        tensors: by canonical name; see ``notes`` for prefixes taken off or put on.
        notes: what was ignored or normalised while opening, in words for the report.
        config_dir: the folder that holds a ``config.json`` beside the weights, if there is one.
        joined: parameters of the running model that the file stores under another name or in parts.
    """

    path: Path
    format: Format
    tensors: Mapping[str, TensorInfo]
    notes: tuple[str, ...]
    config_dir: Path | None
    joined: Mapping[str, Joined]
    _sources: tuple[WeightFile, ...]
    _places: Mapping[str, Place]

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in shard order."""
        return tuple(source.path for source in self._sources)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in memory of its own and the file's dtype (GGUF: float32). Unknown names are a KeyError."""
        return self._places[name].tensor()

    def parameter(self, name: str) -> torch.Tensor:
        """What the running model's parameter ``name`` holds, in the file's dtype. Unknown names are a KeyError."""
        made = self.joined.get(name)
        return self.tensor(name) if made is None else made.join(self.tensor)

    def stored_names(self, parameter: str) -> tuple[str, ...]:
        """The tensors that make up the running model's ``parameter``; its own name where it is stored as it is."""
        made = self.joined.get(parameter)
        return (parameter,) if made is None else tuple(chain.from_iterable(made.experts))

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (exclusive) of the first axis; the rest is not read where the format allows it.

        Raises:
            IndexError: the range is not inside the tensor.
        """
        place = self._places[name]
        length = self.tensors[name].shape[0]
        if not 0 <= start <= stop <= length:
            raise IndexError(f"rows {start}:{stop} of {name}, which has rows 0:{length}")
        return place.rows(start, stop)

    def blocks(self, name: str, most: int) -> Iterator[torch.Tensor]:
        """A tensor in blocks of rows with at most ``most`` elements (or one row), from the first to the last."""
        shape = self.tensors[name].shape
        for rows in row_blocks(shape, most):
            yield self.rows(name, rows.start, rows.stop) if shape else self.tensor(name)

    def file_records(self) -> list[FileRecord]:
        """Name, size and SHA-256 of each weight file; computed once."""
        return self._file_records

    @cached_property
    def _file_records(self) -> list[FileRecord]:
        return [FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256(path)) for path in self.files]


def open_checkpoint(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Open a weight file or a folder of them and verify all headers.

    Args:
        base: what an adapter in ``path`` is merged into; a model that is whole does not need it.

    Raises:
        CheckpointError: absent, damaged, ambiguous, unsafe or of no known format; the message says what to do.
    """
    try:
        sources, notes = _sources(path, base)
    except OSError as error:  # absent, no permission, an input/output error
        raise CheckpointError(f"cannot be read ({error.strerror}).", where=str(error.filename or path)) from error
    stored = {name: source for source in sources for name in source.tensors}
    for name in stored:
        if not name.isprintable():
            raise CheckpointError(f"{name!r} is no name of a tensor.", where=str(path), hint="Do not trust this file.")
    renamed, renaming = canonical_names(stored)
    places = canonical_places({renamed[name]: Place(source, name) for name, source in stored.items()})
    folder = path if path.is_dir() else path.parent
    source_notes = dict.fromkeys(note for source in sources for note in source.notes)
    return Checkpoint(
        path=path,
        format=sources[0].format,
        tensors={name: place.info(name) for name, place in places.items()},
        notes=(*notes, *source_notes, *renaming),
        config_dir=folder if (folder / "config.json").is_file() else None,
        joined=joined_parameters(places),
        _sources=sources,
        _places=places,
    )


def _sources(path: Path, base: Checkpoint | None) -> tuple[tuple[WeightFile, ...], tuple[str, ...]]:
    """The files behind ``path``, and notes on what lies beside them."""
    if not path.is_dir():
        return (open_file(path),), ()
    if not is_adapter(path):
        return open_folder(path)
    if base is None:
        raise CheckpointError(
            "an adapter, which is no model without its base.",
            where=str(path),
            hint="Name it as the unlearned model after its base, or merge the two and save the result.",
        )
    return (open_adapter(path, base),), ()


class TensorDigest:
    """SHA-256 over name, dtype, shape and bytes, so that equal digests mean bitwise equal tensors of one name."""

    def __init__(self, info: TensorInfo) -> None:
        self._hash = hashlib.sha256(f"{info.name}\0{info.dtype}\0{tuple(info.shape)}\0".encode())

    def update(self, rows: torch.Tensor) -> None:
        """Take the next rows, or the whole tensor."""
        self._hash.update(rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def digest(self) -> bytes:
        return self._hash.digest()


def tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """The digest of a tensor in memory."""
    digest = TensorDigest(TensorInfo(name, tuple(tensor.shape), tensor.dtype, ""))
    digest.update(tensor)
    return digest.digest()


def digest_tensor(checkpoint: Checkpoint, name: str, most: int) -> bytes:
    """The digest of a tensor on disk, read in blocks of rows with at most ``most`` elements (or one row)."""
    digest = TensorDigest(checkpoint.tensors[name])
    for block in checkpoint.blocks(name, most):
        digest.update(block)
    return digest.digest()


def combine_digests(digests: Iterable[tuple[str, bytes]]) -> str:
    """One hex digest over (name, tensor digest) pairs, whatever order they come in."""
    combined = hashlib.sha256()
    for name, digest in sorted(digests):
        combined.update(f"{name}\0".encode() + digest)
    return combined.hexdigest()
