"""One tensor of both models, read in blocks of whole rows: what the metrics of the weights are given."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from audit.architectures import Piece
from audit.checkpoint.row_blocks import row_blocks
from audit.models.pair import ModelPair

WHOLE_ELEMENTS = 1 << 25
"""Elements of the largest tensor that stays in memory while it is compared; a larger one is read again in each pass."""
BLOCK_ELEMENTS = 1 << 20
"""Elements of a block: 4 MiB of float32. Measured: smaller blocks cost more calls, larger ones leave the cache."""
COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating types from the fewest bits of significand to the most."""
COUNTS = (torch.bool, torch.int32, torch.int64)
"""Types of counters, indices and masks, of which a norm means nothing; smaller integers may be quantised weights."""
RUNNING = ("running_mean", "running_var")
"""Last parts of the names of what batch normalisation keeps of its inputs: no training step moves them."""
ITERATED = ("_u", "_v", "weight_u", "weight_v")
"""Of the vectors that spectral normalisation keeps of its last forward pass; weight normalisation trains a matrix or
kernel of the last name."""
INTEGER_OF_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that both models have in one shape.

    Attributes:
        role, layer: from the architecture; ``None`` where it does not know the tensor.
        pieces: the FFN neurons in the tensor and their places; empty where it is not an FFN matrix.
        dtype: the number format in which the two versions are compared.
    """

    name: str
    role: str | None
    layer: int | None
    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution's kernel: compared as a matrix, with the channels of its first axis as rows."""
        return self.role is None and len(self.shape) > 2

    @property
    def compared_shape(self) -> tuple[int, ...]:
        return (self.shape[0], math.prod(self.shape[1:])) if self.is_kernel else self.shape

    @property
    def has_norm(self) -> bool:
        return self.dtype not in COUNTS

    @property
    def is_trained(self) -> bool:
        """Whether it is a parameter, as far as its name and type tell."""
        name = self.name.rpartition(".")[2]
        return self.has_norm and name not in RUNNING and not (name in ITERATED and len(self.shape) == 1)

    @property
    def header(self) -> dict[str, str | int | list[int] | None]:
        """The fields of its row in the tensor table that need no values."""
        return {
            "name": self.name,
            "role": self.role,
            "layer": self.layer,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


@dataclass(frozen=True)
class Block:
    """Whole rows of a shared tensor, base and unlearned, both float32. Valid only while the block is processed.

    Attributes:
        changed: whether any bit differs.
        delta_memory: where the difference is written, for later passes; newly allocated if not given.
    """

    base: torch.Tensor
    unlearned: torch.Tensor
    changed: bool
    delta_memory: torch.Tensor | None = None

    @cached_property
    def delta(self) -> torch.Tensor:
        """``unlearned - base``, float32."""
        return torch.sub(self.unlearned, self.base, out=self.delta_memory)

    @cached_property
    def differs(self) -> torch.Tensor:
        """Which elements differ in any bit, bool."""
        return _bits(self.base) != _bits(self.unlearned)


class DeltaMemory(threading.local):
    """Memory for the difference of one tensor in each thread, reused: fresh pages cost as much as a pass."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def of_shape(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Uninitialised float32 of this shape; the tensor of the call before is no longer valid."""
        size = math.prod(shape)
        if self.memory.numel() < size:
            self.memory = torch.empty(size)
        return self.memory[:size].view(shape)


class StoredPair:
    """Both versions of one tensor: read once where memory allows it, otherwise again in each pass."""

    def __init__(self, pair: ModelPair, tensor: SharedTensor, memory: DeltaMemory) -> None:
        self.pair, self.tensor = pair, tensor
        self.whole = self._shaped(pair.tensors(tensor.name)) if tensor.numel <= WHOLE_ELEMENTS else None
        self.delta = memory.of_shape(tensor.compared_shape) if self.whole is not None else None
        self.changed: list[slice] = []

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Block]]:
        """All blocks in order: base and unlearned as stored, and the block in which they are compared."""
        for rows in row_blocks(self.tensor.shape, BLOCK_ELEMENTS):
            base, unlearned = self._stored(rows)
            block = _compared(
                base, unlearned, self.tensor.dtype, None if self.delta is None else _part(self.delta, rows)
            )
            if block.changed:
                self.changed.append(rows)
            yield base, unlearned, block
        self.whole = None

    def deltas(self) -> Iterator[torch.Tensor]:
        """``unlearned - base`` of each block that changed, float32; call it when ``blocks`` is exhausted."""
        for rows in self.changed:
            if self.delta is not None:
                yield _part(self.delta, rows)
            else:
                yield _compared(*self._stored(rows), self.tensor.dtype).delta

    def _stored(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        if self.whole is None:
            return self._shaped(self.pair.rows(self.tensor.name, rows.start, rows.stop))
        base, unlearned = self.whole
        return _part(base, rows), _part(unlearned, rows)

    def _shaped(self, versions: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both as they are compared."""
        base, unlearned = versions
        return (base.flatten(1), unlearned.flatten(1)) if self.tensor.is_kernel else versions


def shared_tensor(pair: ModelPair, name: str) -> SharedTensor:
    """What is known of a tensor before its values are read.

    Different number formats are compared in the coarser one: values that differ only by rounding count as equal. An
    adapter was merged into this very base, so its values are not rounded.
    """
    shape, base_dtype, unlearned_dtype = pair.layout(name)
    architecture = pair.architecture
    role, layer = architecture.roles.get(name, (None, None)) if architecture else (None, None)
    return SharedTensor(
        name=name,
        role=role,
        layer=layer,
        pieces=architecture.pieces.get(name, ()) if architecture else (),
        shape=shape,
        dtype=torch.float32 if pair.unlearned.checkpoint.format == "adapter" else _coarser(base_dtype, unlearned_dtype),
    )


def rounded_to(pair: ModelPair, name: str) -> str | None:
    """The number format to which one version of the tensor is rounded before both are compared, if one is."""
    _, base_dtype, unlearned_dtype = pair.layout(name)
    dtype = shared_tensor(pair, name).dtype
    exact = all(torch.promote_types(dtype, stored) == dtype for stored in (base_dtype, unlearned_dtype))
    return None if exact else str(dtype).removeprefix("torch.")


def _part(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    return tensor[rows] if tensor.dim() else tensor  # a single number has no rows


def _compared(
    base: torch.Tensor, unlearned: torch.Tensor, dtype: torch.dtype, delta_memory: torch.Tensor | None = None
) -> Block:
    """The block of these rows, compared bit for bit: as stored where the formats agree, otherwise in ``dtype``."""
    same = base.dtype == unlearned.dtype and torch.equal(_bits(base), _bits(unlearned))
    if not same and base.dtype != unlearned.dtype:
        base, unlearned = base.to(dtype), unlearned.to(dtype)
        same = torch.equal(_bits(base), _bits(unlearned))
    base = base.to(torch.float32)
    if same:
        return Block(base, base, changed=False)
    return Block(base, unlearned.to(torch.float32), changed=True, delta_memory=delta_memory)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers of its width, in which equal means bitwise equal, NaN and signed zero included."""
    return tensor.contiguous().view(INTEGER_OF_WIDTH[tensor.element_size()])


def _coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The floating type with fewer significant bits; for integers, the base's own type."""
    if one == other or one not in COARSENESS or other not in COARSENESS:
        return one
    return min(one, other, key=COARSENESS.index)
