"""The one pass over two checkpoints' weights: each pair of tensors is read once, compared, digested and let go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from audit.checkpoint import combine_digests, tensor_digest
from audit.metrics import weights_metrics
from audit.neurons import describe_neurons
from audit.pair import ModelPair
from audit.progress import SILENT, Progress
from audit.result import LayerChange, Measurement, TensorChange, Weights

BLOCK = 1 << 18
"""Elements of one block: 1 MiB of float32, so that base, unlearned and scratch stay in the second-level cache."""
COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating types from the fewest bits of significand to the most."""
AS_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class TensorPair:
    """One tensor before and after, both float32 and of one shape.

    Attributes:
        role, layer: what the architecture knows of it, ``None`` where it knows nothing.
        neuron_axis: axis along which FFN neurons run, ``None`` where it is no FFN matrix.
        dtype: the number format in which the two were compared.
        changed: whether any bit differs.
    """

    name: str
    role: str | None
    layer: int | None
    neuron_axis: int | None
    dtype: str
    base: torch.Tensor
    unlearned: torch.Tensor
    changed: bool

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Both tensors in flat blocks of at most ``BLOCK`` elements."""
        base, unlearned = self.base.reshape(-1), self.unlearned.reshape(-1)
        for start in range(0, len(base), BLOCK):
            yield base[start : start + BLOCK], unlearned[start : start + BLOCK]

    @cached_property
    def delta(self) -> torch.Tensor:
        """``unlearned - base``, float32."""
        return self.unlearned - self.base


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
    """Compare every tensor that both checkpoints have; one pair of tensors in memory at a time.

    Files are hashed on another thread meanwhile (hashing leaves the interpreter free).

    Args:
        tokenizer: names the tokens that changed neurons write; without it they stay unnamed.
    """
    observers = {name: module.Observer(pair) for name, module in weights_metrics().items()}
    names = (*pair.shared, *pair.views)
    digests: dict[str, dict[str, bytes]] = {"base": {}, "unlearned": {}}
    nonfinite: dict[str, list[str]] = {"base": [], "unlearned": []}
    rows = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashing = [pool.submit(checkpoint.file_records) for checkpoint in (pair.base, pair.unlearned)]
        for done, name in enumerate(names):
            progress.step("Comparing weights", done, len(names))
            change, pending = read_change(pair, name, pool)
            _note_nonfinite(change, nonfinite)
            rows.append(_row(change, observers))
            for subject, digest in pending.items():
                digests[subject][name] = digest.result()
            del change
        _digest_rest(pair, digests)
        progress.step("Hashing files")
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


def read_change(pair: ModelPair, name: str, pool: ThreadPoolExecutor) -> tuple[TensorPair, dict[str, Future[bytes]]]:
    """One shared tensor of both models, and the digests of it under way in ``pool``.

    Different number formats are compared in the coarser one: what only rounding separates counts as equal.
    """
    base, unlearned = pair.tensors(name)
    pending = {}
    same = base.dtype == unlearned.dtype and torch.equal(_bits(base), _bits(unlearned))
    if name not in pair.views:
        pending["base"] = pool.submit(tensor_digest, name, base)
        pending["unlearned"] = pending["base"] if same else pool.submit(tensor_digest, name, unlearned)
    compared = _coarser(base.dtype, unlearned.dtype)
    if not same and base.dtype != unlearned.dtype:
        base, unlearned = base.to(compared), unlearned.to(compared)
        same = torch.equal(_bits(base), _bits(unlearned))
    role, layer = pair.architecture.roles.get(name, (None, None)) if pair.architecture else (None, None)
    axis = pair.architecture.neuron_axis.get(role) if pair.architecture and role else None
    base32 = base.to(torch.float32)
    change = TensorPair(
        name=name,
        role=role,
        layer=layer,
        neuron_axis=axis,
        dtype=str(compared).removeprefix("torch."),
        base=base32,
        unlearned=base32 if same else unlearned.to(torch.float32),
        changed=not same,
    )
    return change, pending


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers of its width, in which equal means bitwise equal, NaN and signed zero included."""
    return tensor.contiguous().view(AS_BITS[tensor.element_size()])


def _coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The floating type with fewer significant bits; for integers, the base's own type."""
    if one == other or one not in COARSENESS or other not in COARSENESS:
        return one
    return min(one, other, key=COARSENESS.index)


def _note_nonfinite(change: TensorPair, found: dict[str, list[str]]) -> None:
    """Sums are finite where all values are, unless they overflow; only then every value is looked at."""
    tensors = {"base": change.base, "unlearned": change.unlearned}
    for subject, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            found[subject].append(change.name)


def _row(change: TensorPair, observers: Mapping[str, Any]) -> TensorChange:
    """One line of the tensor table; each metric fills its own columns."""
    columns: dict[str, Any] = {}
    for observer in observers.values():
        columns |= observer.observe(change)
    return TensorChange(
        name=change.name,
        role=change.role,
        layer=change.layer,
        shape=list(change.base.shape),
        dtype=change.dtype,
        changed=change.changed,
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
