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

from audit.checkpoint.pair import ModelPair
from audit.metrics.weights import _tally
from audit.metrics.weights.weight_change import squared_norm
from audit.result import Measurement

if TYPE_CHECKING:
    from audit.weights.scan import Block, SharedTensor

TITLE = "Rank of the update"
LEADING = 5
BLOCK_WIDTH = 8
KRYLOV_BLOCKS = 5


class Tally(_tally.Tally):
    """Block Krylov iteration over one matrix ``d``, a pass for each block of directions and one for the end.

    Seeded (Musco and Musco 2015, arXiv 1504.05477), with the Rayleigh-Ritz values of the whole basis: lower bounds,
    the first within 2 % and the fifth within 3 % for white noise, whose spectrum is flat, and far closer where any
    direction stands out; for the same work, depth gives more than width. The last pass measures the leading directions
    themselves, smoothed once more, so that small values keep their digits.
    """

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.squared = 0.0
        self.directions: torch.Tensor | None = None
        self.image: torch.Tensor | None = None
        self.basis: list[torch.Tensor] = []
        self.images: list[torch.Tensor] = []
        self.leading: torch.Tensor | None = None
        if len(tensor.shape) == 2:
            self.directions = start_block(tensor.shape[1])

    def add(self, block: Block) -> None:
        if not block.changed or self.directions is None:
            return
        self.squared += squared_norm(block.delta)
        self.again(block.delta)

    def again(self, delta: torch.Tensor) -> None:
        if self.leading is not None:
            seen = (self.leading @ delta.T).to(torch.float64)  # [leading, rows]
            self.image = _plus(self.image, seen @ seen.T)
        elif self.directions is not None:
            image = (self.directions @ delta.T) @ delta  # directions' d^T d, [up to 8, n]
            self.image = _plus(self.image, image)

    def more(self) -> bool:
        if self.leading is not None or self.image is None or self.directions is None or not math.isfinite(self.squared):
            return False
        self.basis.append(self.directions)
        self.images.append(self.image)
        known, width = torch.cat(self.basis), self.directions.shape[0]
        if len(self.basis) < min(KRYLOV_BLOCKS, max(known.shape[1] // BLOCK_WIDTH, 1)):
            self.directions = orthonormal(torch.cat([known, self.image]))[-width:].contiguous()
        else:
            images = torch.cat(self.images)
            projected = (known @ images.T).to(torch.float64)
            _, vectors = torch.linalg.eigh((projected + projected.T) / 2)
            smoothed = vectors[:, -2 * LEADING :].flip(1).to(torch.float32).T @ images  # one more step of the power
            self.leading = orthonormal(smoothed)
        self.image = None
        return True

    def found(self) -> tuple[float, list[float]] | None:
        """Stable rank and leading singular values; ``None`` where the update is no finite matrix or nothing."""
        if self.leading is None or self.image is None:
            return None
        values = torch.linalg.eigvalsh(self.image).clamp_(min=0).sqrt().flip(0)[:LEADING].tolist()
        if values[0] == 0:
            return None
        return max(self.squared / values[0] ** 2, 1.0), values  # exact rank one can round to just below


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


def start_block(width: int) -> torch.Tensor:
    """Seeded random orthonormal directions to begin with, ``[up to 8, width]``."""
    drawn = torch.randn(width, min(BLOCK_WIDTH, width), generator=torch.Generator().manual_seed(0))
    return orthonormal(drawn.T)


def orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows that span those given, in their order; by reflections, so even of dependent ones."""
    found: torch.Tensor = torch.linalg.qr(rows.T).Q.T.contiguous()
    return found


def _plus(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    return more if total is None else total.add_(more)
