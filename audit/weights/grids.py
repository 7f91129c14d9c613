"""Number formats of quantised weights: what rounding to the nearest number of a grid makes of a matrix.

A grid is scaled to each group of consecutive weights of a row (as stored: in GPT-2's files the inputs run down the
columns). Rounding is simulated: the rounded weights are floating-point numbers again, scales are not rounded, and
neither are activations.
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
LARGEST: Final[Mapping[int, int]] = {3: 7, 4: 15, 8: 255}
"""Bits -> largest code of a uniform grid from the smallest weight of a group, code 0, to the largest."""
SMALLEST: Final = 1e-30
"""Smallest scale, so that none overflows: a group of equal weights is not changed."""


@dataclass(frozen=True)
class Grid:
    """One number format.

    Attributes:
        name: e.g. ``"4 bits"``.
        group: weights that share a scale; ``None`` for all of a row.
        nearest: groups of weights ``[n, size]`` -> the nearest numbers of their grids.
    """

    name: str
    group: int | None
    nearest: Callable[[Tensor], Tensor]

    def rounded(self, rows: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """``rows`` rounded to nearest; computed in float32, returned in the dtype of ``rows``."""
        width = rows.shape[-1]
        values = self.nearest(groups(rows.float(), self.group or width)).reshape(*rows.shape[:-1], -1)
        return values[..., :width].to(rows.dtype)


def groups(rows: Float[Tensor, "*shape"], size: int = GROUP) -> Float[Tensor, "n size"]:
    """Groups of ``size`` consecutive weights of a row; its last weight is repeated to fill a short last group."""
    short = -rows.shape[-1] % size
    filled = torch.cat([rows, rows[..., -1:].expand(*rows.shape[:-1], short)], dim=-1) if short else rows
    return filled.reshape(-1, size)


def extremes(parts: Float[Tensor, "n size"]) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Smallest weight of each group, and the distance from it to the largest, at least ``SMALLEST``."""
    low = parts.amin(dim=1, keepdim=True)
    return low, (parts.amax(dim=1, keepdim=True) - low).clamp_(min=SMALLEST)


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


def _between_extremes(largest: int, parts: Tensor) -> Tensor:
    low, width = extremes(parts)
    return ((parts - low) * (largest / width)).round_() * (width / largest) + low


def _maxima(parts: Tensor) -> Tensor:
    largest: Tensor = parts.abs().amax(dim=1, keepdim=True)
    return largest.clamp_(min=SMALLEST)


def _symmetric(largest: int, parts: Tensor) -> Tensor:
    scales = _maxima(parts)
    return (parts * (largest / scales)).round_() * (scales / largest)


def _normal(parts: Tensor) -> Tensor:
    scales, levels = _maxima(parts), normal_levels()
    boundaries = torch.tensor([(low + high) / 2 for low, high in pairwise(levels)], device=parts.device)
    codes = torch.bucketize(parts / scales, boundaries, out_int32=True)
    return torch.tensor(levels, device=parts.device)[codes] * scales


UNIFORM: Final[Mapping[int, Grid]] = {
    bits: Grid(f"{bits} bits", GROUP, partial(_between_extremes, largest)) for bits, largest in LARGEST.items()
}
"""Bits -> the uniform grid between the extremes of every ``GROUP`` weights."""
INT8: Final = Grid("int8", None, partial(_symmetric, 127))
"""8 bits, symmetric, one absolute-maximum scale for each row, as the weights of LLM.int8() (arXiv 2208.07339)."""
NF4: Final = Grid("NF4", 64, _normal)
"""``normal_levels`` with one absolute-maximum scale for every 64 weights."""
