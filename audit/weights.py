"""The one pass over two checkpoints' weights: each pair of tensors is read once, compared, digested and let go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import torch

from audit.architectures import Piece
from audit.checkpoint import combine_digests, tensor_digest
from audit.metrics import weights_metrics
from audit.neurons import describe_neurons
from audit.pair import ModelPair
from audit.progress import SILENT, Progress
from audit.result import LayerChange, Measurement, TensorChange, Weights

WORKERS = 2
"""Tensors compared at once, each on one thread: several threads in one small kernel would wait for each other."""
COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating types from the fewest bits of significand to the most."""
AS_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that both models have in one shape.

    Attributes:
        role, layer: what the architecture knows of it, ``None`` where it knows nothing.
        pieces: which FFN neurons it holds, and where; empty where it is no FFN matrix.
        dtype: the number format in which the two were compared.
        changed: whether any bit differs.
    """

    name: str
    role: str | None
    layer: int | None
    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    dtype: str
    changed: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorPair:
    """The values of a shared tensor before and after, both float32; gone once it is compared."""

    tensor: SharedTensor
    base: torch.Tensor
    unlearned: torch.Tensor

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
        found: metric -> whatever its ``compare`` gave.
        digests: subject -> digest of the tensor as stored.
        nonfinite: subjects whose tensor holds NaN or infinity.
    """

    tensor: SharedTensor
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
    """Read one shared tensor of both models, and keep what the metrics want to know of it.

    Different number formats are compared in the coarser one: what only rounding separates counts as equal.
    """
    base, unlearned = pair.tensors(name)
    same = base.dtype == unlearned.dtype and torch.equal(_bits(base), _bits(unlearned))
    digests = {}
    if name not in pair.views:
        digests["base"] = tensor_digest(name, base)
        digests["unlearned"] = digests["base"] if same else tensor_digest(name, unlearned)
    compared = _coarser(base.dtype, unlearned.dtype)
    if not same and base.dtype != unlearned.dtype:
        base, unlearned = base.to(compared), unlearned.to(compared)
        same = torch.equal(_bits(base), _bits(unlearned))
    role, layer = pair.architecture.roles.get(name, (None, None)) if pair.architecture else (None, None)
    tensor = SharedTensor(
        name=name,
        role=role,
        layer=layer,
        pieces=pair.architecture.pieces.get(name, ()) if pair.architecture else (),
        shape=tuple(base.shape),
        dtype=str(compared).removeprefix("torch."),
        changed=not same,
    )
    base = base.to(torch.float32)
    change = TensorPair(tensor, base, base if same else unlearned.to(torch.float32))
    del unlearned
    return Comparison(
        tensor=tensor,
        found={metric: module.compare(change) for metric, module in metrics.items()},
        digests=digests,
        nonfinite=tuple(subject for subject in ("base", "unlearned") if not _finite(getattr(change, subject))),
    )


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
        dtype=tensor.dtype,
        changed=tensor.changed,
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
                found[name] = tensor_digest(name, checkpoint.tensor(name))


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
