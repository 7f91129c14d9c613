"""Share of quantisation codes that the update changes, at 4 and at 8 bits.

Each matrix is rounded to nearest with one absolute-maximum scale for every 32 consecutive weights of a row, symmetric,
each model with its own scales; a code is flipped where the two codes differ. An update that flips few codes is largely
undone by quantisation, whatever it did to the answers in full precision (arXiv 2410.16454). For an update much smaller
than a step, the share is about ``E|d| / step``. Vectors (norms, biases) are left alone, as quantisers do.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from audit.pair import ModelPair
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.weights import TensorPair

TITLE = "Quantisation codes flipped"
GROUP = 32
"""Weights that share a scale: the block of GGUF's 4-bit and 8-bit formats."""
LARGEST = {4: 7, 8: 127}
"""Bits -> largest code of a symmetric grid."""


class Observer:
    """Counts codes and flipped codes of every matrix."""

    def __init__(self, pair: ModelPair) -> None:
        self.total: dict[int, int] = defaultdict(int)
        self.flipped: dict[tuple[int, int], int] = defaultdict(int)  # (bits, layer) -> codes; -1 is outside all layers
        self.codes: dict[int, int] = defaultdict(int)

    def observe(self, change: TensorPair) -> dict[str, Any]:
        if change.base.dim() < 2:
            return {}
        layer = -1 if change.layer is None else change.layer
        self.codes[layer] += change.base.numel()
        if not change.changed:
            return {"flipped_4bit": 0.0, "flipped_8bit": 0.0}
        flipped = count_flips(change.base, change.unlearned)
        for bits, count in flipped.items():
            self.flipped[bits, layer] += count
        return {f"flipped_{bits}bit": count / change.base.numel() for bits, count in flipped.items()}

    def layer(self, layer: int) -> dict[str, Any]:
        if not self.codes[layer]:
            return {}
        return {f"flipped_{bits}bit": self.flipped[bits, layer] / self.codes[layer] for bits in LARGEST}

    def measure(self) -> Measurement:
        codes = sum(self.codes.values())
        shares = {bits: self._share(bits, codes) for bits in LARGEST}
        layers = [layer for layer in sorted(self.codes) if layer >= 0 and self.codes[layer]]
        return Measurement(
            metric="code_flips",
            title=TITLE,
            value=shares[4],
            not_measured=None if codes else "there is no matrix among the shared tensors",
            base=0.0 if codes else None,
            unit="share of 4-bit codes",
            direction="change",
            n=codes,
            layers={f"{bits} bit": [self.flipped[bits, at] / self.codes[at] for at in layers] for bits in LARGEST},
            details={"share_8bit": shares[8], "group": GROUP, "rounding": "nearest, symmetric, absolute maximum"},
        )

    def _share(self, bits: int, codes: int) -> float | None:
        return sum(count for (width, _), count in self.flipped.items() if width == bits) / codes if codes else None


def count_flips(base: torch.Tensor, unlearned: torch.Tensor) -> dict[int, int]:
    """Bits -> number of codes that differ, for two float32 matrices of one shape."""
    flips = dict.fromkeys(LARGEST, 0)
    rows = max((1 << 18) // base.shape[-1], 1)
    before, after = base.reshape(-1, base.shape[-1]), unlearned.reshape(-1, base.shape[-1])
    for start in range(0, len(before), rows):
        scaled_before, scaled_after = _scaled(before[start : start + rows]), _scaled(after[start : start + rows])
        for bits, largest in LARGEST.items():
            codes = (scaled_before * largest).round_()
            flips[bits] += int((scaled_after * largest).round_().ne_(codes).count_nonzero())
    return flips


def _scaled(rows: torch.Tensor) -> torch.Tensor:
    """Each group of 32 of a row divided by its absolute maximum, in [-1, 1]; a short last group has its own scale."""
    width = rows.shape[-1]
    short = -width % GROUP
    padded = torch.nn.functional.pad(rows, (0, short)) if short else rows
    groups = padded.reshape(-1, GROUP)
    largest = torch.linalg.vector_norm(groups, ord=torch.inf, dim=1, keepdim=True)
    scaled: torch.Tensor = groups / largest.clamp_(min=torch.finfo(torch.float32).tiny)  # zeros stay zeros
    return scaled
