"""Share of quantisation codes that the update changes, at 4 and at 8 bits.

Each matrix is rounded to nearest with one absolute-maximum scale for every 32 consecutive weights of a row, symmetric,
each model with its own scales; a code is flipped where the two codes differ. An update that flips few codes is largely
undone by quantisation, whatever it did to the answers in full precision (arXiv 2410.16454). For an update much smaller
than a step, the share is about ``E|d| / step``. Vectors (norms, biases) are excluded, as in quantised models.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.result import Column, Measured
from audit.weights import contract
from audit.weights.blocks import Block, SharedTensor

TITLE = "Quantisation codes flipped"
GROUP = 32
"""Weights that share a scale: the block of GGUF's 4-bit and 8-bit formats."""
LARGEST = {4: 7, 8: 127}
"""Bits -> largest code of a symmetric grid."""
SMALLEST = 1e-30
"""Smallest scale; smaller weights round to zero on any grid."""
COLUMNS = tuple(
    Column(
        name=f"flipped_{bits}bit",
        title=f"{bits}-bit flips",
        unit=f"share of {bits}-bit codes that differ",
        kind="share",
        tables=("tensor", "layer"),
    )
    for bits in LARGEST
)


class Tally(contract.Tally[dict[int, int] | None]):
    """Bits -> codes of one matrix that differ; ``None`` for a vector."""

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.flips = dict.fromkeys(LARGEST, 0)

    def add(self, block: Block) -> None:
        if block.changed and len(self.tensor.shape) > 1:
            for bits, count in count_flips(block.base, block.unlearned).items():
                self.flips[bits] += count

    def result(self) -> dict[int, int] | None:
        return self.flips if len(self.tensor.shape) > 1 else None


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
        return {f"flipped_{bits}bit": count / tensor.numel for bits, count in result.items()}

    def layer(self, layer: int) -> contract.Columns:
        if not self.codes[layer]:
            return {}
        return {f"flipped_{bits}bit": self.flipped[bits, layer] / self.codes[layer] for bits in LARGEST}

    def measure(self) -> Measured:
        codes = sum(self.codes.values())
        shares = {bits: self._share(bits, codes) for bits in LARGEST}
        layers = [layer for layer in sorted(self.codes) if layer >= 0 and self.codes[layer]]
        return Measured(
            value=shares[4],
            not_measured=None if codes else "none of the shared tensors is a matrix",
            base=0.0 if codes else None,
            unit="share of 4-bit codes",
            direction="change",
            n=codes,
            layers={f"{bits} bit": [self.flipped[bits, at] / self.codes[at] for at in layers] for bits in LARGEST},
            details={"share_8bit": shares[8], "group": GROUP, "rounding": "nearest, symmetric, absolute maximum"},
        )

    def _share(self, bits: int, codes: int) -> float | None:
        return sum(count for (width, _), count in self.flipped.items() if width == bits) / codes if codes else None


def count_flips(base: Float[Tensor, "*shape"], unlearned: Float[Tensor, "*shape"]) -> dict[int, int]:
    """Bits -> number of codes that differ, for rows of two float32 matrices."""
    flips = {}
    groups = [_groups(rows) for rows in (base, unlearned)]
    scales = [_maxima(group) for group in groups]
    for bits, largest in LARGEST.items():
        codes, changed = (
            (group * (largest / scale)).round_().to(torch.int8) for group, scale in zip(groups, scales, strict=True)
        )
        flips[bits] = int(np.count_nonzero((changed != codes).numpy()))  # many times faster than torch's
    return flips


def _groups(rows: Float[Tensor, "*shape"]) -> Float[Tensor, "n 32"]:
    """Groups of 32 consecutive weights of a row; zeros fill a short last group and change no scale."""
    short = -rows.shape[-1] % GROUP
    padded = torch.nn.functional.pad(rows, (0, short)) if short else rows
    return padded.reshape(-1, GROUP)


def _maxima(groups: Float[Tensor, "n 32"]) -> Float[Tensor, "n 1"]:
    """Absolute maximum of each group, at least ``SMALLEST`` so that no scale overflows."""
    maxima: Tensor = groups.abs().amax(dim=1, keepdim=True)
    return maxima.clamp_(min=SMALLEST)
