"""Stable rank ``||d||_F^2 / sigma_1^2`` and leading singular values of each changed matrix's update ``d``.

It names the kind of edit: a low rank is an adapter or a direction edit, a high one a full fine-tuning. It never tells
whether knowledge is gone (the shape of an update is alike for true removal and for refusal training).
At least 1 for a changed matrix; undefined for an unchanged one, which is left out and not averaged in as zero.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from audit.metrics.weight_change import squared_norm
from audit.pair import ModelPair
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.weights import SharedTensor, TensorPair

TITLE = "Rank of the update"
LEADING = 5
BLOCK_WIDTH = 16
KRYLOV_BLOCKS = 4


def compare(change: TensorPair) -> tuple[float, list[float]] | None:
    """Stable rank and leading singular values of the update; ``None`` where it is no finite matrix or nothing."""
    if not change.tensor.changed or len(change.tensor.shape) != 2:
        return None
    squared = squared_norm(change.delta)
    if not math.isfinite(squared):
        return None
    values = leading_singular_values(change.delta)
    if not values or values[0] == 0:
        return None
    return max(squared / values[0] ** 2, 1.0), values  # exact rank one can round to just below


class Observer:
    """Keeps the stable rank of each changed matrix."""

    def __init__(self, pair: ModelPair) -> None:
        self.ranks: list[float] = []
        self.by_layer: dict[int, list[float]] = defaultdict(list)
        self.n_layers = pair.architecture.n_layers if pair.architecture else 0

    def add(self, tensor: SharedTensor, found: tuple[float, list[float]] | None) -> dict[str, Any]:
        if found is None:
            return {}
        rank, values = found
        self.ranks.append(rank)
        if tensor.layer is not None:
            self.by_layer[tensor.layer].append(rank)
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
    within 1.5 % for white noise, whose spectrum is flat, and far closer where any direction stands out.
    """
    if matrix.shape[1] > matrix.shape[0]:
        matrix = matrix.T
    width = min(BLOCK_WIDTH, matrix.shape[1])
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
