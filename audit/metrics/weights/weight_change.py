"""How far the weights moved: ``||W' - W|| / ||W||``, cosine and L2 distance, by tensor, by layer, and over all.

Sums run in float64 over blocks; the cosine is computed from norms (``audit.weights.norms.cosine``).
Undefined where the base is all zero, and of counters and masks. The number over all is of what is trained, without what
batch normalisation keeps of its inputs. A small value proves nothing: fine-tuning at a learning rate of 1e-5 removes
answers and moves the weights by less than one part in a thousand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from audit.architectures import Architecture
from audit.result import Column, Measured
from audit.weights import contract
from audit.weights.blocks import Block, SharedTensor
from audit.weights.norms import cosine, squared_norm

TITLE = "Change of the weights"
UNIT = "L2 norm of the update / L2 norm of the base"
COLUMNS = (
    Column(name="relative_change", title="relative change", unit=UNIT, tables=("tensor", "layer")),
    Column(name="cosine", title="cosine", unit="cosine of base and unlearned", tables=("tensor", "layer")),
    Column(name="l2", title="L2", unit="L2 norm of the update", tables=("tensor", "layer")),
)


@dataclass
class Sums:
    """Squared norms of base, unlearned and their difference, added up over blocks."""

    base: float = 0.0
    unlearned: float = 0.0
    delta: float = 0.0
    changed: bool = False
    """Whether any bit differs; an update may be too small for its square."""

    def add(self, other: Sums) -> None:
        self.base += other.base
        self.unlearned += other.unlearned
        self.delta += other.delta

    @property
    def l2(self) -> float:
        return math.sqrt(self.delta)

    @property
    def relative_change(self) -> float | None:
        return math.sqrt(self.delta / self.base) if self.base > 0 else None

    @property
    def cosine(self) -> float | None:
        return cosine(self.base, self.unlearned, self.delta)


class Tally(contract.Tally[Sums]):
    """Squared norms of one tensor; those of an unchanged block are computed once."""

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.sums = Sums()

    def add(self, block: Block) -> None:
        base = squared_norm(block.base)
        self.sums.base += base
        self.sums.unlearned += squared_norm(block.unlearned) if block.changed else base
        if block.changed:
            self.sums.delta += squared_norm(block.delta)
            self.sums.changed = True

    def result(self) -> Sums:
        return self.sums


class Observer(contract.Observer[Sums]):
    """Adds up squared norms, by tensor, by layer, and over everything."""

    def __init__(self, architecture: Architecture | None) -> None:
        self.total = Sums()
        self.layers: dict[int, Sums] = defaultdict(Sums)
        self.changed_parameters = 0
        self.parameters = 0

    def add(self, tensor: SharedTensor, result: Sums) -> contract.Columns:
        if tensor.is_trained:
            self.total.add(result)
            self.parameters += tensor.numel
            self.changed_parameters += tensor.numel if result.changed else 0
        if tensor.layer is not None:
            self.layers[tensor.layer].add(result)
        return _columns(result) if tensor.has_norm else dict.fromkeys(column.name for column in COLUMNS)

    def layer(self, layer: int) -> contract.Columns:
        return _columns(self.layers[layer])

    def measure(self) -> Measured:
        value = _finite(self.total.relative_change)
        return Measured(
            value=value,
            not_measured=None if value is not None else "the norms of the weights are zero or not finite",
            base=0.0,
            unit=UNIT,
            direction="change",
            n=self.parameters,
            layers={"unlearned": [self.layers[layer].relative_change for layer in sorted(self.layers)]},
            details={"cosine": self.total.cosine, "l2": self.total.l2, "changed_parameters": self.changed_parameters},
        )


def _columns(sums: Sums) -> contract.Columns:
    return {"relative_change": sums.relative_change, "cosine": sums.cosine, "l2": sums.l2}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
