"""The one pass over two checkpoints' weights: each pair of tensors is read once, compared, digested and let go."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from audit.architectures import Piece
from audit.checkpoint import TensorDigest, combine_digests, digest_tensor
from audit.checkpoint.pair import ModelPair
from audit.checkpoint.row_blocks import row_blocks
from audit.metrics import weights_metrics
from audit.metrics.weights import WeightsMetric
from audit.progress import SILENT, Progress
from audit.result import LayerChange, Measurement, TensorChange, Weights
from audit.weights.neurons import describe_neurons

WORKERS = 2
"""Tensors compared at once, each on one thread: several threads in one small kernel would wait for each other."""
LARGE = 1 << 25
"""Elements of the largest tensor that stays in memory while it is compared, as stored; larger ones are read again."""
STEP = 1 << 20
"""Elements of a block: 4 MiB of float32. Measured: smaller ones cost more calls, larger ones leave the cache."""
COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating types from the fewest bits of significand to the most."""
AS_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that both models have in one shape.

    Attributes:
        role, layer: what the architecture knows of it, ``None`` where it knows nothing.
        pieces: which FFN neurons it holds, and where; empty where it is no FFN matrix.
        dtype: the number format in which the two are compared.
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


@dataclass(frozen=True)
class Block:
    """Whole rows of a shared tensor before and after, both float32; gone once they are compared.

    Attributes:
        changed: whether any bit differs.
        room: where the difference is written, for later passes; memory of its own if not given.
    """

    base: torch.Tensor
    unlearned: torch.Tensor
    changed: bool
    room: torch.Tensor | None = None

    @cached_property
    def delta(self) -> torch.Tensor:
        """``unlearned - base``, float32."""
        return torch.sub(self.unlearned, self.base, out=self.room)

    @cached_property
    def differs(self) -> torch.Tensor:
        """Which elements differ in any bit, bool."""
        return _bits(self.base) != _bits(self.unlearned)


@dataclass(frozen=True)
class Comparison:
    """What is kept of one pair of tensors.

    Attributes:
        changed: whether any bit differs.
        found: metric -> whatever its tally found.
        digests: subject -> digest of the tensor as stored.
        nonfinite: subjects whose tensor holds NaN or infinity.
    """

    tensor: SharedTensor
    changed: bool
    found: Mapping[str, Any]
    digests: Mapping[str, bytes]
    nonfinite: tuple[str, ...]


@dataclass(frozen=True)
class WeightScan:
    """What the pass found.

    Attributes:
        digests: subject -> hex digest over its tensors as loaded.
        nonfinite: subject -> names of tensors that hold NaN or infinity.
        identical: whether the two checkpoints hold the same tensors, bit for bit.
    """

    weights: Weights
    digests: Mapping[str, str]
    nonfinite: Mapping[str, list[str]]
    identical: bool


def scan(pair: ModelPair, tokenizer: Any = None, progress: Progress = SILENT) -> WeightScan:
    """Compare every tensor that both checkpoints have; ``WORKERS`` pairs of tensors in memory at a time.

    Args:
        tokenizer: names the tokens that changed neurons write; without it they stay unnamed.
    """
    metrics = weights_metrics()
    observers = {name: module.Observer(pair) for name, module in metrics.items()}
    names = (*pair.shared, *pair.views)
    digests: dict[str, dict[str, bytes]] = {"base": {}, "unlearned": {}}
    nonfinite: dict[str, list[str]] = {"base": [], "unlearned": []}
    rows = []
    with _workers() as pool:
        hashing = [pool.submit(checkpoint.file_records) for checkpoint in (pair.base, pair.unlearned)]
        compared = pool.map(partial(compare_tensors, pair, metrics, Room()), names)
        for done, comparison in enumerate(compared):
            progress.step("Comparing weights", done, len(names))
            rows.append(_row(comparison, observers))
            for subject, digest in comparison.digests.items():
                digests[subject][comparison.tensor.name] = digest
            for subject in comparison.nonfinite:
                nonfinite[subject].append(comparison.tensor.name)
        _digest_rest(pair, digests)
        for future in hashing:
            future.result()
    progress.step("Reading changed neurons in vocabulary space")
    measurements = [observer.measure() for observer in observers.values()]
    neurons = describe_neurons(pair, observers["neuron_change"].table(), tokenizer)
    return WeightScan(
        weights=_weights(pair, rows, observers, [*measurements, neurons.measurement], neurons.top, neurons.themes),
        digests={subject: combine_digests(found.items()) for subject, found in digests.items()},
        nonfinite=nonfinite,
        identical=not any(row.changed for row in rows) and digests["base"].keys() == digests["unlearned"].keys(),
    )


def tensor_rows(pair: ModelPair, names: Iterable[str]) -> list[TensorChange]:
    """The lines of the tensor table for ``names`` alone, as ``scan`` would give them."""
    metrics = weights_metrics()
    observers = {name: module.Observer(pair) for name, module in metrics.items()}
    with _workers() as pool:
        return [_row(found, observers) for found in pool.map(partial(compare_tensors, pair, metrics, Room()), names)]


def compare_tensors(pair: ModelPair, metrics: Mapping[str, WeightsMetric], room: Room, name: str) -> Comparison:
    """Read one shared tensor of both models, and keep what the metrics want to know of it."""
    tensor = shared_tensor(pair, name)
    stored = StoredPair(pair, tensor, room)
    tallies = {metric: module.Tally(tensor) for metric, module in metrics.items()}
    hashes = _hashes(pair, name)
    changed, nonfinite = False, set()
    for base, unlearned, block in stored.blocks():
        for subject, rows in (("base", base), ("unlearned", unlearned)):
            if subject in hashes:
                hashes[subject].update(rows)
            if not _finite(getattr(block, subject)):
                nonfinite.add(subject)
        changed |= block.changed
        for tally in tallies.values():
            tally.add(block)
    wanting = [tally for tally in tallies.values() if tally.more()]
    while wanting:
        for delta in stored.differences():
            for tally in wanting:
                tally.again(delta)
        wanting = [tally for tally in wanting if tally.more()]
    return Comparison(
        tensor=tensor,
        changed=changed,
        found={metric: tally.found() for metric, tally in tallies.items()},
        digests={subject: found.digest() for subject, found in hashes.items()},
        nonfinite=tuple(sorted(nonfinite)),
    )


def shared_tensor(pair: ModelPair, name: str) -> SharedTensor:
    """What is known of a tensor before it is read.

    Different number formats are compared in the coarser one: what only rounding separates counts as equal. An adapter
    was merged into this very base, so nothing of it is rounded.
    """
    shape, one, other = pair.layout(name)
    role, layer = pair.architecture.roles.get(name, (None, None)) if pair.architecture else (None, None)
    return SharedTensor(
        name=name,
        role=role,
        layer=layer,
        pieces=pair.architecture.pieces.get(name, ()) if pair.architecture else (),
        shape=shape,
        dtype=torch.float32 if pair.unlearned.format == "adapter" else _coarser(one, other),
    )


class Room(threading.local):
    """Memory for a tensor's difference, one on each thread and used again: fresh pages cost as much as a pass."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def of(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Float32 of this shape, not set; what was given before is no longer valid."""
        wanted = math.prod(shape)
        if self.memory.numel() < wanted:
            self.memory = torch.empty(wanted)
        return self.memory[:wanted].view(shape)


class StoredPair:
    """Both versions of one tensor: read once where memory allows, else again for every pass."""

    def __init__(self, pair: ModelPair, tensor: SharedTensor, room: Room) -> None:
        self.pair, self.tensor = pair, tensor
        self.whole = pair.tensors(tensor.name) if tensor.numel <= LARGE else None
        self.delta = room.of(tensor.shape) if self.whole is not None else None
        self.changed: list[slice] = []

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Block]]:
        """Blocks of whole rows as stored, base and unlearned, and as compared, from the first to the last."""
        for rows in row_blocks(self.tensor.shape, STEP):
            base, unlearned = self._stored(rows)
            block = _block(base, unlearned, self.tensor.dtype, None if self.delta is None else _part(self.delta, rows))
            if block.changed:
                self.changed.append(rows)
            yield base, unlearned, block
        self.whole = None

    def differences(self) -> Iterator[torch.Tensor]:
        """The difference of every block that changed, once ``blocks`` has come to its end."""
        for rows in self.changed:
            if self.delta is not None:
                yield _part(self.delta, rows)
            else:
                yield _block(*self._stored(rows), self.tensor.dtype).delta

    def _stored(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        if self.whole is None:
            return self.pair.rows(self.tensor.name, rows.start, rows.stop)
        base, unlearned = self.whole
        return _part(base, rows), _part(unlearned, rows)


def _part(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    return tensor[rows] if tensor.dim() else tensor  # a single number has no rows


def _hashes(pair: ModelPair, name: str) -> dict[str, TensorDigest]:
    """Digests to be fed; of a tensor compared in part there are none, it is digested whole later."""
    if name in pair.views:
        return {}
    subjects = {"base": pair.base, "unlearned": pair.unlearned}
    return {subject: TensorDigest(checkpoint.tensors[name]) for subject, checkpoint in subjects.items()}


def _block(
    base: torch.Tensor, unlearned: torch.Tensor, compared: torch.dtype, room: torch.Tensor | None = None
) -> Block:
    same = base.dtype == unlearned.dtype and torch.equal(_bits(base), _bits(unlearned))
    if not same and base.dtype != unlearned.dtype:
        base, unlearned = base.to(compared), unlearned.to(compared)
        same = torch.equal(_bits(base), _bits(unlearned))
    base = base.to(torch.float32)
    if same:
        return Block(base, base, changed=False)
    return Block(base, unlearned.to(torch.float32), changed=True, room=room)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that compute on their own; torch's thread count is put back afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers of its width, in which equal means bitwise equal, NaN and signed zero included."""
    return tensor.contiguous().view(AS_BITS[tensor.element_size()])


def _coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The floating type with fewer significant bits; for integers, the base's own type."""
    if one == other or one not in COARSENESS or other not in COARSENESS:
        return one
    return min(one, other, key=COARSENESS.index)


def _finite(tensor: torch.Tensor) -> bool:
    """Sums are finite where all values are, unless they overflow; only then every value is looked at."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _row(comparison: Comparison, observers: Mapping[str, Any]) -> TensorChange:
    """One line of the tensor table; each metric fills its own columns."""
    tensor = comparison.tensor
    columns: dict[str, Any] = {}
    for metric, observer in observers.items():
        columns |= observer.add(tensor, comparison.found[metric])
    return TensorChange(
        name=tensor.name,
        role=tensor.role,
        layer=tensor.layer,
        shape=list(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        changed=comparison.changed,
        **columns,
    )


def _digest_rest(pair: ModelPair, digests: dict[str, dict[str, bytes]]) -> None:
    """Digest the tensors that were not compared whole, so that each subject's digest speaks of all of it."""
    for subject, checkpoint in (("base", pair.base), ("unlearned", pair.unlearned), ("retained", pair.retained)):
        if checkpoint is None:
            continue
        found = digests.setdefault(subject, {})
        for name in checkpoint.tensors:
            if name not in found:
                found[name] = digest_tensor(checkpoint, name, STEP)


def _weights(
    pair: ModelPair,
    rows: list[TensorChange],
    observers: Mapping[str, Any],
    measurements: list[Measurement],
    top: list[Any],
    themes: list[str],
) -> Weights:
    layers = range(pair.architecture.n_layers if pair.architecture else 0)
    changed = sum(row.changed for row in rows)
    return Weights(
        changed_tensors=changed,
        total_tensors=len(rows),
        changed_fraction=changed / len(rows) if rows else None,
        per_tensor=rows,
        per_layer=[_layer(layer, observers) for layer in layers],
        top_neurons=top,
        themes=themes,
        measurements=measurements,
    )


def _layer(layer: int, observers: Mapping[str, Any]) -> LayerChange:
    columns: dict[str, Any] = {}
    for observer in observers.values():
        columns |= observer.layer(layer)
    return LayerChange(layer=layer, **columns)
