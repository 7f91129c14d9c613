"""Share of quantisation codes that the update changes, at 3, 4 and 8 bits.

Each matrix is rounded to nearest on a uniform grid between the smallest and the largest of every 32 consecutive weights
of a row, each model with its own grids; a code is flipped where the two codes differ. An update that flips few codes is
largely undone by quantisation, whatever it did to the answers in full precision (arXiv 2410.16454). For an update much
smaller than a step, the share is about ``1.2 E|d| / step``: the grid moves with the extremes. Vectors (norms, biases)
are excluded, as in quantised models. The rows are the conditions of the attack ``rounding`` with the share in the
matrices that it rounds, those of the blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.questions.conditions import Condition
from audit.result import Cell, Column, Measured
from audit.weights import contract
from audit.weights.blocks import Block, SharedTensor
from audit.weights.grids import GROUP, LARGEST, UNIFORM, extremes, groups

TITLE = "Quantisation codes flipped"
LISTED = (4, 8)
"""Bits that have a column in the tables of tensors and layers."""
COLUMNS = tuple(
    Column(
        name=f"flipped_{bits}bit",
        title=f"{bits}-bit flips",
        unit=f"share of {bits}-bit codes that differ",
        kind="share",
        tables=("tensor", "layer"),
    )
    for bits in LISTED
)


class Tally(contract.Tally[dict[int, int] | None]):
    """Bits -> codes of one matrix that differ; ``None`` for a vector and for a matrix without entries."""

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.flips = dict.fromkeys(LARGEST, 0)
        self._is_matrix = len(tensor.shape) > 1 and tensor.has_norm and tensor.numel > 0

    def add(self, block: Block) -> None:
        if block.changed and self._is_matrix:
            for bits, count in count_flips(block.base, block.unlearned).items():
                self.flips[bits] += count

    def result(self) -> dict[int, int] | None:
        return self.flips if self._is_matrix else None


class Observer(contract.Observer[dict[int, int] | None]):
    """Counts codes and flipped codes of every matrix."""

    def __init__(self, architecture: Architecture | None) -> None:
        self.flipped: dict[tuple[int, int], int] = defaultdict(int)  # (bits, layer) -> codes; -1 is outside all layers
        self.codes: dict[int, int] = defaultdict(int)

    def add(self, tensor: SharedTensor, result: dict[int, int] | None) -> contract.Columns:
        if result is None:
            return {}
        layer = -1 if tensor.layer is None else tensor.layer
        self.codes[layer] += tensor.numel
        for bits, count in result.items():
            self.flipped[bits, layer] += count
        return {f"flipped_{bits}bit": result[bits] / tensor.numel for bits in LISTED}

    def layer(self, layer: int) -> contract.Columns:
        if not self.codes[layer]:
            return {}
        return {f"flipped_{bits}bit": self.flipped[bits, layer] / self.codes[layer] for bits in LISTED}

    def measure(self) -> Measured:
        everywhere = sorted(self.codes)
        layers = [layer for layer in everywhere if layer >= 0 and self.codes[layer]]
        return Measured(
            value=self._share(4, everywhere),
            not_measured=None if everywhere else "none of the shared tensors is a matrix",
            base=0.0 if everywhere else None,
            unit="share of 4-bit codes",
            direction="change",
            n=sum(self.codes.values()),
            layers={f"{bits} bit": [self.flipped[bits, at] / self.codes[at] for at in layers] for bits in LISTED},
            items=[self._row(bits, layers) for bits in LARGEST] if layers else [],
            details={
                "share_8bit": self._share(8, everywhere),
                "group": GROUP,
                "rounding": "nearest, uniform between the extremes of a group",
            },
        )

    def _row(self, bits: int, layers: Sequence[int]) -> dict[str, Cell]:
        condition = Condition("rounding", UNIFORM[bits].name)
        return {"condition": str(condition), "codes_flipped_in_blocks": self._share(bits, layers)}

    def _share(self, bits: int, layers: Sequence[int]) -> float | None:
        codes = sum(self.codes[layer] for layer in layers)
        return sum(self.flipped[bits, layer] for layer in layers) / codes if codes else None


def count_flips(base: Float[Tensor, "*shape"], unlearned: Float[Tensor, "*shape"]) -> dict[int, int]:
    """Bits -> number of codes that differ, for rows of two float32 matrices."""
    flips = {}
    parts = [groups(rows) for rows in (base, unlearned)]
    lows, widths = zip(*(extremes(part) for part in parts), strict=True)
    shifted = [part - low for part, low in zip(parts, lows, strict=True)]
    codes, changed = (torch.empty_like(part) for part in parts)  # reused: fresh pages cost as much as the rounding
    for bits, largest in LARGEST.items():
        torch.mul(shifted[0], largest / widths[0], out=codes).round_()
        torch.mul(shifted[1], largest / widths[1], out=changed).round_()
        flips[bits] = int(np.count_nonzero(changed.numpy() != codes.numpy()))  # many times faster than torch's
    return flips
