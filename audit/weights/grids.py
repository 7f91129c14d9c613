"""Number formats of quantised weights: what rounding to the nearest number of a grid makes of a matrix.

Each group of consecutive weights of a row (as stored: in GPT-2's files the inputs run down the columns) has one scale,
its absolute maximum, so every grid is symmetric about 0 and needs no zero point. Rounding is simulated: the rounded
weights are floating-point numbers again, and activations are not rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

GROUP: Final = 32
"""Weights that share a scale: the block of GGUF's 4-bit and 8-bit formats."""
LARGEST: Final[Mapping[int, int]] = {3: 3, 4: 7, 8: 127}
"""Bits -> largest code of a symmetric uniform grid."""
SMALLEST: Final = 1e-30
"""Smallest scale; smaller weights round to zero on any grid."""


@dataclass(frozen=True)
class Grid:
    """One number format.

    Attributes:
        name: e.g. ``"4 bits"``.
        group: weights that share a scale; ``None`` for all of a row.
        nearest: numbers in [-1, 1] -> the nearest ones of the grid.
    """

    name: str
    group: int | None
    nearest: Callable[[Tensor], Tensor]

    def rounded(self, rows: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """``rows`` rounded to nearest; computed in float32, returned in the dtype of ``rows``."""
        width = rows.shape[-1]
        parts = groups(rows.float(), self.group or width)
        scales = maxima(parts)
        values = (self.nearest(parts / scales) * scales).reshape(*rows.shape[:-1], -1)
        return values[..., :width].to(rows.dtype)


def groups(rows: Float[Tensor, "*shape"], size: int = GROUP) -> Float[Tensor, "n size"]:
    """Groups of ``size`` consecutive weights of a row; zeros fill a short last group and change no scale."""
    short = -rows.shape[-1] % size
    padded = torch.nn.functional.pad(rows, (0, short)) if short else rows
    return padded.reshape(-1, size)


def maxima(parts: Float[Tensor, "n size"]) -> Float[Tensor, "n 1"]:
    """Absolute maximum of each group, at least ``SMALLEST`` so that no scale overflows."""
    largest: Tensor = parts.abs().amax(dim=1, keepdim=True)
    return largest.clamp_(min=SMALLEST)


@cache
def normal_levels() -> tuple[float, ...]:
    """The 16 numbers of NF4, ascending from -1 to 1 (QLoRA, arXiv 2305.14314).

    They are quantiles of the standard normal distribution, divided by the largest: 8 above 0, 0 itself and 7 below. The
    outermost probability is the mean of 1 - 1/30 and 1 - 1/32, so that the outer levels are finite.
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    above, below = (
        torch.special.ndtri(torch.linspace(outermost, 0.5, n, dtype=torch.float64)[:-1]).tolist() for n in (9, 8)
    )
    return tuple(level / above[0] for level in sorted([*above, 0.0, *(-level for level in below)]))


def _uniform(largest: int, scaled: Tensor) -> Tensor:
    return (scaled * largest).round_() / largest


def _normal(scaled: Tensor) -> Tensor:
    levels = normal_levels()
    boundaries = torch.tensor([(low + high) / 2 for low, high in pairwise(levels)], device=scaled.device)
    return torch.tensor(levels, device=scaled.device)[torch.bucketize(scaled, boundaries, out_int32=True)]


UNIFORM: Final[Mapping[int, Grid]] = {
    bits: Grid(f"{bits} bits", GROUP, partial(_uniform, largest)) for bits, largest in LARGEST.items()
}
"""Bits -> the uniform grid with one scale for every ``GROUP`` weights."""
INT8: Final = Grid("int8", None, partial(_uniform, LARGEST[8]))
"""8 bits with one scale for each row, as the weights of LLM.int8() (arXiv 2208.07339)."""
NF4: Final = Grid("NF4", 64, _normal)
"""The quantiles of ``normal_levels`` with one scale for every 64 weights."""
