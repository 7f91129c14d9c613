"""Stable rank ``||d||_F^2 / sigma_1^2`` and leading singular values of each changed matrix's update ``d``.

It names the kind of edit: a low rank is an adapter or a direction edit, a high one a full fine-tuning. It never tells
whether knowledge is gone (the shape of an update is alike for true removal and for refusal training).
At least 1 for a changed matrix; undefined for an unchanged one, which is left out and not averaged in as zero.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from audit.pair import ModelPair
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.weights import TensorPair

TITLE = "Rank of the update"
LEADING = 5
BLOCK_WIDTH = 8
KRYLOV_BLOCKS = 6


class Observer:
    """Keeps the stable rank of each changed matrix."""

    def __init__(self, pair: ModelPair) -> None:
        self.ranks: list[float] = []
        self.by_layer: dict[int, list[float]] = defaultdict(list)
        self.n_layers = pair.architecture.n_layers if pair.architecture else 0

    def observe(self, change: TensorPair) -> dict[str, Any]:
        if not change.changed or change.base.dim() != 2 or not bool(torch.isfinite(change.delta.sum())):
            return {}
        values = leading_singular_values(change.delta)
        squared = float(torch.linalg.vector_norm(change.delta, dtype=torch.float64)) ** 2
        if not values or values[0] == 0:
            return {}
        rank = max(squared / values[0] ** 2, 1.0)  # exact rank one can round to just below
        self.ranks.append(rank)
        if change.layer is not None:
            self.by_layer[change.layer].append(rank)
        return {"stable_rank": rank, "singular_values": values}

    def layer(self, layer: int) -> dict[str, Any]:
        return {}

    def measure(self) -> Measurement:
        layers = range(self.n_layers)
        medians = [statistics.median(self.by_layer[at]) if self.by_layer[at] else None for at in layers]
        return Measurement(
            metric="update_rank",
            title=TITLE,
            value=statistics.median(self.ranks) if self.ranks else None,
            not_measured=None if self.ranks else "no matrix was changed",
            unit="median stable rank of the changed matrices",
            n=len(self.ranks) or None,
            layers={"unlearned": medians} if any(self.by_layer.values()) else {},
            details={"smallest": min(self.ranks), "largest": max(self.ranks)} if self.ranks else {},
        )


def leading_singular_values(matrix: torch.Tensor) -> list[float]:
    """The up to five largest singular values of ``matrix`` ``[m, n]``, largest first.

    Seeded block Krylov iteration (Musco and Musco 2015) with the Rayleigh-Ritz values of the whole basis: lower bounds,
    within 1 % for white noise, whose spectrum is flat, and far closer where any direction stands out.
    """
    width = min(BLOCK_WIDTH, *matrix.shape)
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(matrix.shape[1], width, generator=generator)
    blocks = []
    for _ in range(min(KRYLOV_BLOCKS, max(min(matrix.shape) // width, 1))):
        block = torch.linalg.qr(matrix.T @ (matrix @ block)).Q  # [n, width]
        blocks.append(block)
    basis = torch.linalg.qr(torch.cat(blocks, dim=1)).Q  # [n, width * blocks]
    image = (matrix @ basis).to(torch.float64)
    values = torch.linalg.eigvalsh(image.T @ image).clamp_(min=0).sqrt().flip(0)
    return [float(value) for value in values[: min(LEADING, width)]]
