"""The header of a GGUF file: metadata and tensor table, with every length checked against the file before it is used.

The gguf package's own reader keeps the whole file mapped, and if a damaged file states an array of 2^60 entries, it
loops that often past the end. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from audit.checkpoint.weight_file import numel
from audit.errors import CheckpointError

VERSIONS: Final = (2, 3)
MAX_DIMENSIONS: Final = 4  # ggml's own limit
DEFAULT_ALIGNMENT: Final = 32
STRING: Final = 8
ARRAY: Final = 9
SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's other value types, as struct formats."""


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the tensor table.

    Attributes:
        shape: the slowest axis first, as in torch.
        begin: position of the tensor's first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    quantisation: GGMLQuantizationType
    begin: int

    @property
    def row_bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.quantisation]
        return self.shape[-1] // int(block) * int(size)

    @property
    def n_rows(self) -> int:
        return numel(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes


@dataclass(frozen=True)
class GgufHeader:
    """Metadata by key, tensors by their GGUF names."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """The header of ``path``.

    Raises:
        CheckpointError: truncated, malformed, or of an unsupported version, byte order or quantisation type.
    """
    with path.open("rb") as stream:
        cursor = _Cursor(stream, path)
        cursor.take(4)  # the magic number; detect_format has checked it
        version = cursor.number("I")
        if version not in VERSIONS:
            raise cursor.error(f"version {version} or big-endian; versions 2 and 3, little-endian, are read")
        n_tensors, n_metadata = cursor.number("Q"), cursor.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_metadata):
            key = cursor.text()
            if key in metadata:
                raise cursor.error(f"the metadata key {key!r} appears twice")
            metadata[key] = cursor.value()
        tensors: dict[str, GgufTensor] = {}
        for _ in range(n_tensors):
            tensor = _read_tensor(cursor)
            if tensor.name in tensors:
                raise cursor.error(f"tensor {tensor.name} appears twice")
            tensors[tensor.name] = tensor
        return GgufHeader(metadata, _check_positions(tensors, metadata, cursor))


class _Cursor:
    """Reads a file from its start, and never more bytes than remain in it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.size = path.stat().st_size
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self.error(
                f"it needs {count:,} bytes at position {self.position:,}, but {self.size - self.position:,} remain"
            )
        self.position += count
        return self._stream.read(count)

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error("a name or text is not UTF-8") from error

    def value(self) -> Any:
        kind = self.number("I")
        if kind == ARRAY:
            kind, length = self.number("I"), self.number("Q")
            if kind == STRING:
                return [self.text() for _ in range(length)]
            return list(self._scalars(kind, length))
        return self.text() if kind == STRING else self._scalars(kind, 1)[0]

    def _scalars(self, kind: int, length: int) -> tuple[Any, ...]:
        if kind not in SCALARS:
            raise self.error(f"a metadata value of unknown type {kind}")
        raw = self.take(length * struct.calcsize(f"<{SCALARS[kind]}"))
        return struct.unpack(f"<{length}{SCALARS[kind]}", raw)

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"not a valid GGUF file: {reason}.", where=str(self._path), hint="Download it again.")


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    """One entry of the tensor table; its ``begin`` is relative to the start of the data."""
    name, n_dimensions = cursor.text(), cursor.number("I")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name} has {n_dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(n_dimensions))[::-1]  # stored with the fastest axis first
    if 0 in shape:
        raise cursor.error(f"tensor {name} of shape {list(shape)} is empty")
    kind, begin = cursor.number("I"), cursor.number("Q")
    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError as error:
        known = ", ".join(quantisation.name for quantisation in GGML_QUANT_SIZES)
        raise cursor.error(f"tensor {name} is of unknown quantisation type {kind}; known are {known}") from error
    if shape[-1] % GGML_QUANT_SIZES[quantisation][0]:
        raise cursor.error(f"the row length of {name} ({shape[-1]}) is not a multiple of {quantisation.name}'s block")
    return GgufTensor(name, shape, quantisation, begin)


def _check_positions(
    tensors: Mapping[str, GgufTensor], metadata: Mapping[str, Any], cursor: _Cursor
) -> dict[str, GgufTensor]:
    """The tensors with ``begin`` counted from the start of the file.

    Raises:
        CheckpointError: they overlap, leave gaps larger than the alignment, or do not end where the file ends.
    """
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(f"an alignment of {alignment!r}, which is not a power of two")
    start = -(-cursor.position // alignment) * alignment
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.nbytes)):
        if not end <= tensor.begin < end + alignment or tensor.begin % alignment:
            raise cursor.error(
                f"tensor {tensor.name} begins at {tensor.begin:,} of the data, after {end:,} bytes of other tensors"
            )
        end = tensor.begin + tensor.nbytes
    excess = cursor.size - start - end
    if excess < 0:
        raise cursor.error(f"it is {-excess:,} bytes short: an incomplete download?")
    if excess >= alignment:
        raise cursor.error(f"{excess:,} bytes follow the last tensor")
    return {name: replace(tensor, begin=start + tensor.begin) for name, tensor in tensors.items()}
