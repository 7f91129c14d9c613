"""Every FFN neuron before and after: its value vector (a row of ``W_out``) and its key rows (``W_in`` and ``W_gate``).

Rows that are bitwise equal are recognised as untouched, so an edit of a few neurons stands out in a model of any size.
The value is the share of value vectors that changed at all; the table behind it says by how much, neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audit.checkpoint.pair import ModelPair
from audit.metrics.weights import _tally
from audit.metrics.weights.weight_change import cosine
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.architectures import Piece
    from audit.weights.scan import Block, SharedTensor

TITLE = "FFN neurons changed"
KEYS = ("W_in", "W_gate")


@dataclass(frozen=True)
class NeuronTable:
    """Squared norms of each neuron's rows, ``[n_layers, d_mlp]`` float64 each: base, unlearned and their difference.

    Attributes:
        value: of the value vector, by ``"base"``, ``"unlearned"``, ``"delta"``.
        key: of ``W_in`` and ``W_gate`` together.
        touched_value, touched_key: whether any bit of the rows differs.
    """

    value: dict[str, np.ndarray]
    key: dict[str, np.ndarray]
    touched_value: np.ndarray
    touched_key: np.ndarray

    def relative_change(self, kind: str = "value") -> np.ndarray:
        """``||d|| / ||base||`` of each neuron; 0 where nothing changed, NaN where a changed row was zero before."""
        sums = self.value if kind == "value" else self.key
        touched = self.touched_value if kind == "value" else self.touched_key
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.sqrt(sums["delta"] / sums["base"])
        return np.where(touched, np.where(np.isfinite(change), change, np.nan), 0.0)

    def cosine(self, layer: int, neuron: int) -> float | None:
        """Cosine of one value vector before and after."""
        at = layer, neuron
        return cosine(*(float(self.value[which][at]) for which in ("base", "unlearned", "delta")))


@dataclass(frozen=True)
class NeuronRows:
    """One stored tensor: squared norms of its rows of neurons, float64 in stored order, and which differ in any bit."""

    base: np.ndarray
    unlearned: np.ndarray
    delta: np.ndarray
    touched: np.ndarray


class Tally(_tally.Tally):
    """Rows of one FFN matrix: those of a block belong to neurons of their own, or every block has a part of each."""

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

    def found(self) -> NeuronRows | None:
        if self.axis is None:
            return None
        join = np.concatenate if self.axis == 0 else _added
        return NeuronRows(*(join([getattr(part, entry.name) for part in self.parts]) for entry in fields(NeuronRows)))


class Observer:
    """Collects squared row norms of every FFN matrix."""

    def __init__(self, pair: ModelPair) -> None:
        architecture = pair.architecture
        self.shape = (architecture.n_layers, architecture.d_mlp) if architecture else (0, 0)
        names = ("base", "unlearned", "delta")
        self.value = {name: np.zeros(self.shape) for name in names}
        self.key = {name: np.zeros(self.shape) for name in names}
        self.touched_value = np.zeros(self.shape, dtype=bool)
        self.touched_key = np.zeros(self.shape, dtype=bool)

    def add(self, tensor: SharedTensor, found: NeuronRows | None) -> dict[str, Any]:
        if found is not None:
            for piece in tensor.pieces:
                self._add(piece, found)
        return {}

    def _add(self, piece: Piece, found: NeuronRows) -> None:
        sums, touched = (self.key, self.touched_key) if piece.role in KEYS else (self.value, self.touched_value)
        stored = slice(piece.start, piece.start + piece.count)
        at = piece.layer, slice(piece.first_neuron, piece.first_neuron + piece.count)
        for name in sums:
            sums[name][at] += getattr(found, name)[stored]
        touched[at] |= found.touched[stored]

    def layer(self, layer: int) -> dict[str, Any]:
        return {
            "changed_value_vectors": int(self.touched_value[layer].sum()),
            "changed_key_rows": int(self.touched_key[layer].sum()),
            "total_neurons": self.shape[1],
        }

    def table(self) -> NeuronTable:
        return NeuronTable(self.value, self.key, self.touched_value, self.touched_key)

    def measure(self) -> Measurement:
        total = self.touched_value.size
        if not total:
            return Measurement(
                metric="neuron_change", title=TITLE, not_measured="no supported family has these tensor names"
            )
        change = self.table().relative_change()
        touched = change[self.touched_value]
        known = touched[np.isfinite(touched)]
        medians = [_median(change[layer][self.touched_value[layer]]) for layer in range(self.shape[0])]
        return Measurement(
            metric="neuron_change",
            title=TITLE,
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


def _squares(matrix: torch.Tensor, across: int) -> np.ndarray:
    """Squared norms of the rows (or columns) of ``matrix``, float64."""
    squares: np.ndarray = matrix.square().sum(dim=across).to(torch.float64).numpy()
    return squares


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None
