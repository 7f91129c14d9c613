"""The one pass over two checkpoints' weights: each pair of tensors is read once, compared, digested and let go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import torch

from audit.checkpoint import TensorDigest, combine_digests, digest_tensor
from audit.metrics import weights_metrics
from audit.metrics._tally import Tally
from audit.neurons import describe_neurons
from audit.pair import ModelPair
from audit.progress import SILENT, Progress
from audit.result import LayerChange, Measurement, TensorChange, Weights

WORKERS = 2
"""Tensors compared at once, each on one thread: several threads in one small kernel would wait for each other."""
LARGE = 1 << 25
"""Elements of the largest tensor that is kept whole while it is compared: 128 MiB of float32."""
STEP = 1 << 23
"""Elements read at a time of a larger one: 32 MiB of float32."""
COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating types from the fewest bits of significand to the most."""
AS_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that both models have in one shape.

    Attributes:
        role, layer: what the architecture knows of it, ``None`` where it knows nothing.
        neuron_axis: axis along which FFN neurons run, ``None`` where it is no FFN matrix.
        dtype: the number format in which the two are compared.
    """

    name: str
    role: str | None
    layer: int | None
    neuron_axis: int | None
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """Whole rows of a shared tensor before and after, both float32; gone once they are compared.

    Attributes:
        whole: whether these are all the rows.
        changed: whether any bit differs.
    """

    base: torch.Tensor
    unlearned: torch.Tensor
    whole: bool
    changed: bool

    @cached_property
    def delta(self) -> torch.Tensor:
        """``unlearned - base``, float32."""
        return self.unlearned - self.base

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
        compared = pool.map(partial(compare_tensors, pair, metrics), names)
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


def compare_tensors(pair: ModelPair, metrics: Mapping[str, ModuleType], name: str) -> Comparison:
    """Read one shared tensor of both models, and keep what the metrics want to know of it."""
    tensor = shared_tensor(pair, name)
    tallies = {metric: module.Tally(tensor) for metric, module in metrics.items()}
    first = _FirstPass(pair, tensor)
    kept = []
    for block in first.blocks():
        _feed(tallies.values(), block)
        kept += [block] if block.whole else []
    wanting = [tally for tally in tallies.values() if tally.more()]
    while wanting:
        for block in kept or _read_blocks(pair, tensor):
            _feed(wanting, block)
        wanting = [tally for tally in wanting if tally.more()]
    return Comparison(
        tensor=tensor,
        changed=first.changed,
        found={metric: tally.found() for metric, tally in tallies.items()},
        digests=first.digests(),
        nonfinite=tuple(sorted(first.nonfinite)),
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
        neuron_axis=pair.architecture.neuron_axis.get(role) if pair.architecture and role else None,
        shape=shape,
        dtype=torch.float32 if pair.unlearned.format == "adapter" else _coarser(one, other),
    )


class _FirstPass:
    """The blocks of one tensor, and what is learned from their bytes on the way."""

    def __init__(self, pair: ModelPair, tensor: SharedTensor) -> None:
        self.pair, self.tensor = pair, tensor
        self.changed = False
        self.nonfinite: set[str] = set()
        self.hashes: dict[str, TensorDigest] = {}

    def blocks(self) -> Iterator[Block]:
        name, whole = self.tensor.name, self.tensor.numel <= LARGE
        infos = {"base": self.pair.base, "unlearned": self.pair.unlearned}
        if name not in self.pair.views:
            self.hashes = {subject: TensorDigest(checkpoint.tensors[name]) for subject, checkpoint in infos.items()}
        for base, unlearned in _stored_blocks(self.pair, self.tensor):
            block = _block(base, unlearned, self.tensor.dtype, whole)
            if self.hashes:
                self._hash(base, unlearned, block)
            self.changed |= block.changed
            self.nonfinite |= {subject for subject in infos if not _finite(getattr(block, subject))}
            del base, unlearned
            yield block

    def _hash(self, base: torch.Tensor, unlearned: torch.Tensor, block: Block) -> None:
        self.hashes["base"].update(base)
        if block.whole and not block.changed and base.dtype == unlearned.dtype:
            self.hashes["unlearned"] = self.hashes["base"]
        else:
            self.hashes["unlearned"].update(unlearned)

    def digests(self) -> dict[str, bytes]:
        return {subject: found.digest() for subject, found in self.hashes.items()}


def _stored_blocks(pair: ModelPair, tensor: SharedTensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both versions of a tensor as stored, whole or in blocks of rows."""
    if tensor.numel <= LARGE:
        yield pair.tensors(tensor.name)
        return
    step = max(STEP * tensor.shape[0] // tensor.numel, 1)
    for start in range(0, tensor.shape[0], step):
        yield pair.rows(tensor.name, start, min(start + step, tensor.shape[0]))


def _read_blocks(pair: ModelPair, tensor: SharedTensor) -> Iterator[Block]:
    """The blocks of a tensor too large to be kept, read once more."""
    for base, unlearned in _stored_blocks(pair, tensor):
        yield _block(base, unlearned, tensor.dtype, whole=False)


def _block(base: torch.Tensor, unlearned: torch.Tensor, compared: torch.dtype, whole: bool) -> Block:
    same = base.dtype == unlearned.dtype and torch.equal(_bits(base), _bits(unlearned))
    if not same and base.dtype != unlearned.dtype:
        base, unlearned = base.to(compared), unlearned.to(compared)
        same = torch.equal(_bits(base), _bits(unlearned))
    base = base.to(torch.float32)
    return Block(base, base if same else unlearned.to(torch.float32), whole, changed=not same)


def _feed(tallies: Iterable[Tally], block: Block) -> None:
    for tally in tallies:
        tally.add(block)


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
