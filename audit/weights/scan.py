"""The one pass over two checkpoints' weights: each pair of tensors is read once, compared, digested and let go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from audit.checkpoint import TensorDigest, combine_digests, stored_tensor_digest
from audit.models.opening import OpenedModel
from audit.models.pair import ModelPair
from audit.progress import SILENT, Progress
from audit.result import TensorChange, Weights
from audit.weights.blocks import BLOCK_ELEMENTS, DeltaMemory, SharedTensor, StoredPair, rounded_to, shared_tensor
from audit.weights.contract import Tally, WeightsMetric
from audit.weights.neuron_table import NeuronTable
from audit.weights.tables import ChangeTables

WORKERS = 2
"""Tensors compared at once, each on one thread: several threads in one small kernel would wait for each other."""


@dataclass(frozen=True)
class TensorComparison:
    """What is kept of one pair of tensors.

    Attributes:
        changed: whether any bit differs.
        results: metric -> the result of its tally.
        digests: subject -> digest of the tensor as stored.
        nonfinite: subjects whose tensor contains NaN or infinity.
    """

    tensor: SharedTensor
    changed: bool
    results: Mapping[str, object]
    digests: Mapping[str, bytes]
    nonfinite: tuple[str, ...]


@dataclass(frozen=True)
class WeightScan:
    """The result of the pass.

    Attributes:
        weights: the tables and the measurements; ``audit.weights.comparison`` adds neurons and themes.
        neurons: the change of every FFN neuron; ``None`` if no metric keeps it.
        digests: subject -> hex digest over its tensors as loaded.
        nonfinite: subject -> names of tensors that contain NaN or infinity.
        identical, equal_at_coarser: see ``equality``.
    """

    weights: Weights
    neurons: NeuronTable | None
    digests: Mapping[str, str]
    nonfinite: Mapping[str, list[str]]
    identical: bool
    equal_at_coarser: str | None = None


def scan(pair: ModelPair, metrics: Mapping[str, WeightsMetric], progress: Progress = SILENT) -> WeightScan:
    """Compare every tensor that both checkpoints have; ``WORKERS`` pairs of tensors are in memory at a time."""
    tables = ChangeTables(pair.architecture, metrics)
    names = (*pair.shared, *pair.views)
    digests: dict[str, dict[str, bytes]] = {"base": {}, "unlearned": {}}
    nonfinite: dict[str, list[str]] = {"base": [], "unlearned": []}
    rows = []
    with _worker_threads() as pool:
        hashing = [pool.submit(model.checkpoint.file_records) for model in (pair.base, pair.unlearned)]
        comparisons = pool.map(partial(compare_tensor, pair, metrics, DeltaMemory()), names)
        for done, comparison in enumerate(comparisons):
            progress.step("Comparing weights", done, len(names))
            rows.append(tables.tensor(comparison.tensor, comparison.changed, comparison.results))
            for subject, digest in comparison.digests.items():
                digests[subject][comparison.tensor.name] = digest
            for subject in comparison.nonfinite:
                nonfinite[subject].append(comparison.tensor.name)
        _digest_remaining(pair, digests)
        for future in hashing:
            future.result()
    identical, equal_at_coarser = equality(pair, sum(row.changed for row in rows))
    return WeightScan(
        weights=_weights(pair, rows, tables, identical, equal_at_coarser),
        neurons=tables.neurons(),
        digests={subject: combine_digests(by_name.items()) for subject, by_name in digests.items()},
        nonfinite=nonfinite,
        identical=identical,
        equal_at_coarser=equal_at_coarser,
    )


def equality(pair: ModelPair, changed_tensors: int) -> tuple[bool, str | None]:
    """Whether both models have the same parameters bit for bit; or the coarser number format in which they are equal.

    Formats differ if one checkpoint is a rounded copy of the other; such models do not compute the same numbers. A tied
    head that a file stores as a tensor of its own is not a further parameter.

    Args:
        changed_tensors: number of compared tensors that differ.
    """
    if changed_tensors or _parameters(pair.base) != _parameters(pair.unlearned):
        return False, None
    rounded = {format for name in (*pair.shared, *pair.views) if (format := rounded_to(pair, name)) is not None}
    return not rounded, ", ".join(sorted(rounded)) or None


def _parameters(model: OpenedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by name; of all tensors where the family is unknown."""
    tensors, architecture = model.checkpoint.tensors, model.architecture
    if architecture is None:
        return {name: info.shape for name, info in tensors.items()}
    tied = {architecture.head_name} if architecture.tied else set()
    return {name: tensors[name].shape for name in architecture.roles.keys() - tied}


def tensor_rows(pair: ModelPair, metrics: Mapping[str, WeightsMetric], names: Iterable[str]) -> list[TensorChange]:
    """The rows of the tensor table for ``names`` alone, equal to those of ``scan``."""
    tables = ChangeTables(pair.architecture, metrics)
    with _worker_threads() as pool:
        comparisons = pool.map(partial(compare_tensor, pair, metrics, DeltaMemory()), names)
        return [tables.tensor(compared.tensor, compared.changed, compared.results) for compared in comparisons]


def compare_tensor(
    pair: ModelPair, metrics: Mapping[str, WeightsMetric], memory: DeltaMemory, name: str
) -> TensorComparison:
    """Read one shared tensor of both models, and compute what the metrics need of it."""
    tensor = shared_tensor(pair, name)
    stored = StoredPair(pair, tensor, memory)
    tallies = {metric: module.Tally(tensor) for metric, module in metrics.items()}
    hashes = _hashes(pair, name)
    changed, nonfinite = False, set()
    for base, unlearned, block in stored.blocks():
        for subject, as_stored, values in (("base", base, block.base), ("unlearned", unlearned, block.unlearned)):
            if subject in hashes:
                hashes[subject].update(as_stored)
            if not _finite(values):
                nonfinite.add(subject)
        changed |= block.changed
        for tally in tallies.values():
            tally.add(block)
    _further_passes(stored, tallies.values())
    return TensorComparison(
        tensor=tensor,
        changed=changed,
        results={metric: tally.result() for metric, tally in tallies.items()},
        digests={subject: digest.digest() for subject, digest in hashes.items()},
        nonfinite=tuple(sorted(nonfinite)),
    )


def _further_passes(stored: StoredPair, tallies: Iterable[Tally[object]]) -> None:
    """Go through the differences until no tally needs another pass."""
    unfinished = [tally for tally in tallies if tally.needs_another_pass()]
    while unfinished:
        for delta in stored.deltas():
            for tally in unfinished:
                tally.add_delta(delta)
        unfinished = [tally for tally in unfinished if tally.needs_another_pass()]


def _hashes(pair: ModelPair, name: str) -> dict[str, TensorDigest]:
    """Digests to be updated; none for a tensor of which only a part is compared: it is digested whole later."""
    if name in pair.views:
        return {}
    models = {"base": pair.base, "unlearned": pair.unlearned}
    return {subject: TensorDigest(model.checkpoint.tensors[name]) for subject, model in models.items()}


@contextmanager
def _worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads of which each computes alone; afterwards torch has its earlier number of threads again."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite. A finite sum proves it; a sum that is not finite may only have overflowed."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _digest_remaining(pair: ModelPair, digests: dict[str, dict[str, bytes]]) -> None:
    """Digest the tensors that were not compared whole, so that each subject's digest covers all of them."""
    for subject, model in pair.models.items():
        by_name = digests.setdefault(subject, {})
        for name in model.checkpoint.tensors:
            if name not in by_name:
                by_name[name] = stored_tensor_digest(model.checkpoint, name, BLOCK_ELEMENTS)


def _weights(
    pair: ModelPair, rows: list[TensorChange], tables: ChangeTables, identical: bool, equal_at_coarser: str | None
) -> Weights:
    changed = sum(row.changed for row in rows)
    n_layers = pair.architecture.n_layers if pair.architecture else 0
    only_base, only_unlearned = pair.unpaired()
    return Weights(
        changed_tensors=changed,
        total_tensors=len(rows),
        changed_fraction=changed / len(rows) if rows else None,
        identical=identical,
        equal_at_coarser=equal_at_coarser,
        only_base=only_base,
        only_unlearned=only_unlearned,
        columns=tables.columns(),
        per_tensor=rows,
        per_layer=[tables.layer(layer) for layer in range(n_layers)],
        measurements=tables.measurements(),
    )
