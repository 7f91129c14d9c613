"""Every FFN neuron before and after: its value vector (a row of ``W_out``) and its key rows (``W_in`` and ``W_gate``).

Rows that are bitwise equal are recognised as untouched, so an edit of a few neurons stands out in a model of any size.
The value is the share of value vectors that changed at all; the table behind it says by how much, neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from audit.architectures import Architecture, Piece
from audit.result import Column, Measured, not_measured
from audit.weights import contract
from audit.weights.blocks import Block, SharedTensor
from audit.weights.neuron_table import NeuronTable

TITLE = "FFN neurons changed"
COLUMNS = (
    Column(name="changed_value_vectors", title="value vectors", unit="neurons", tables=("layer",)),
    Column(name="changed_key_rows", title="key rows", unit="neurons", tables=("layer",)),
    Column(name="total_neurons", title="neurons", unit="neurons", tables=("layer",)),
)
KEYS = ("W_in", "W_gate")
"""Roles of the matrices with the key rows."""


@dataclass(frozen=True)
class NeuronRows:
    """One stored tensor: squared norms of its rows of neurons, float64 in stored order, and which differ in any bit."""

    base: np.ndarray
    unlearned: np.ndarray
    delta: np.ndarray
    touched: np.ndarray


class Tally(contract.Tally[NeuronRows | None]):
    """Norms of the rows of one FFN matrix, by neuron; ``None`` for other tensors.

    Where neurons run along the first axis, each block has neurons of its own; otherwise each block has a part of every
    neuron.
    """

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.axis = tensor.pieces[0].axis if tensor.pieces else None
        self.parts: list[NeuronRows] = []

    def add(self, block: Block) -> None:
        if self.axis is None:
            return
        across = 1 - self.axis
        base = _squares(block.base, across)
        if not block.changed:
            self.parts.append(NeuronRows(base, base, np.zeros_like(base), np.zeros(len(base), dtype=bool)))
            return
        touched: np.ndarray = block.differs.numpy().max(axis=across)  # many times faster than torch's
        self.parts.append(NeuronRows(base, _squares(block.unlearned, across), _squares(block.delta, across), touched))

    def result(self) -> NeuronRows | None:
        if self.axis is None:
            return None
        join = np.concatenate if self.axis == 0 else _added
        return NeuronRows(*(join([getattr(part, entry.name) for part in self.parts]) for entry in fields(NeuronRows)))


class Observer(contract.Observer[NeuronRows | None]):
    """Collects squared row norms of every FFN matrix."""

    def __init__(self, architecture: Architecture | None) -> None:
        self.shape = (architecture.n_layers, architecture.d_mlp) if architecture else (0, 0)
        names = ("base", "unlearned", "delta")
        self.value = {name: np.zeros(self.shape) for name in names}
        self.key = {name: np.zeros(self.shape) for name in names}
        self.touched_value = np.zeros(self.shape, dtype=bool)
        self.touched_key = np.zeros(self.shape, dtype=bool)

    def add(self, tensor: SharedTensor, result: NeuronRows | None) -> contract.Columns:
        if result is not None:
            for piece in tensor.pieces:
                self._add(piece, result)
        return {}

    def _add(self, piece: Piece, rows: NeuronRows) -> None:
        sums, touched = (self.key, self.touched_key) if piece.role in KEYS else (self.value, self.touched_value)
        stored = slice(piece.start, piece.start + piece.count)
        at = piece.layer, slice(piece.first_neuron, piece.first_neuron + piece.count)
        for name in sums:
            sums[name][at] += getattr(rows, name)[stored]
        touched[at] |= rows.touched[stored]

    def layer(self, layer: int) -> contract.Columns:
        return {
            "changed_value_vectors": int(self.touched_value[layer].sum()),
            "changed_key_rows": int(self.touched_key[layer].sum()),
            "total_neurons": self.shape[1],
        }

    def neuron_table(self) -> NeuronTable:
        return NeuronTable(self.value, self.key, self.touched_value, self.touched_key)

    def measure(self) -> Measured:
        total = self.touched_value.size
        if not total:
            return not_measured("no supported family has these tensor names")
        change = self.neuron_table().relative_change()
        touched = change[self.touched_value]
        known = touched[np.isfinite(touched)]
        medians = [_median(change[layer][self.touched_value[layer]]) for layer in range(self.shape[0])]
        return Measured(
            value=float(self.touched_value.mean()),
            base=0.0,
            unit="share of value vectors that differ in any bit",
            direction="change",
            n=total,
            layers={"share changed": self.touched_value.mean(axis=1).tolist(), "median relative change": medians},
            details={
                "changed_value_vectors": int(self.touched_value.sum()),
                "changed_key_rows": int(self.touched_key.sum()),
                "median_relative_change": _median(known),
                "largest_relative_change": float(known.max()) if known.size else None,
            },
        )


def _added(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sums of numbers; of marks, whether any is set."""
    added: np.ndarray = np.any(parts, axis=0) if parts[0].dtype == bool else np.sum(parts, axis=0)
    return added


def _squares(matrix: Float[Tensor, "rows columns"], across: int) -> Float64[np.ndarray, " neurons"]:
    """Squared norms of the rows (or columns) of ``matrix``, float64."""
    squares: np.ndarray = matrix.square().sum(dim=across).to(torch.float64).numpy()
    return squares


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None
