"""How far the weights moved: ``||W' - W|| / ||W||``, cosine and L2 distance, by tensor, by layer, and over all.

Sums run in float64 over blocks. The cosine is taken from norms,
``1 - (||d||^2 - (||W'|| - ||W||)^2) / (2 ||W'|| ||W||)``, which keeps its digits where the update is small; a plain dot
product in float32 would print 1 for any fine-tuning. Undefined where the base is all zero.
A small value is no proof of anything: fine-tuning at a learning rate of 1e-5 removes answers and moves the weights by
less than one part in a thousand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from audit.checkpoint.pair import ModelPair
from audit.metrics.weights import _tally
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.weights.scan import Block, SharedTensor

TITLE = "Change of the weights"


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


def cosine(base: float, unlearned: float, delta: float) -> float | None:
    """Cosine from squared norms of ``W``, ``W'`` and ``W' - W``; ``None`` where a norm is zero."""
    product = math.sqrt(base) * math.sqrt(unlearned)
    if product == 0 or not math.isfinite(product):
        return None
    apart = delta - (math.sqrt(unlearned) - math.sqrt(base)) ** 2
    return 1 - max(apart, 0.0) / (2 * product)


class Tally(_tally.Tally):
    """Squared norms of one tensor; an unchanged block is read once."""

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

    def found(self) -> Sums:
        return self.sums


class Observer:
    """Adds up squared norms, by tensor, by layer, and over everything."""

    def __init__(self, pair: ModelPair) -> None:
        self.total = Sums()
        self.layers: dict[int, Sums] = defaultdict(Sums)
        self.changed_parameters = 0
        self.parameters = 0

    def add(self, tensor: SharedTensor, found: Sums) -> dict[str, Any]:
        self.total.add(found)
        self.parameters += tensor.numel
        self.changed_parameters += tensor.numel if found.changed else 0
        if tensor.layer is not None:
            self.layers[tensor.layer].add(found)
        return _columns(found)

    def layer(self, layer: int) -> dict[str, Any]:
        return _columns(self.layers[layer])

    def measure(self) -> Measurement:
        value = _finite(self.total.relative_change)
        return Measurement(
            metric="weight_change",
            title=TITLE,
            value=value,
            not_measured=None if value is not None else "the norms of the weights are zero or not finite",
            base=0.0,
            unit="L2 norm of the update / L2 norm of the base",
            direction="change",
            n=self.parameters,
            layers={"unlearned": [self.layers[layer].relative_change for layer in sorted(self.layers)]},
            details={"cosine": self.total.cosine, "l2": self.total.l2, "changed_parameters": self.changed_parameters},
        )


def squared_norm(rows: torch.Tensor) -> float:
    """Sum of the squares of a block."""
    flat = rows.reshape(-1)
    return float(torch.dot(flat, flat))


def _columns(sums: Sums) -> dict[str, Any]:
    return {
        "relative_change": _finite(sums.relative_change),
        "cosine": _finite(sums.cosine),
        "l2": _finite(sums.l2),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
