"""Stable rank ``||d||_F^2 / sigma_1^2`` and leading singular values of each changed matrix's update ``d``.

It indicates the kind of edit: a low rank is an adapter or a direction edit, a high one a full fine-tuning. It does not
show whether knowledge is gone: true removal and refusal training give updates of similar shape.
At least 1 for a changed matrix; undefined for an unchanged one, which is excluded and not averaged in as zero.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.result import Column, Measured
from audit.weights import contract
from audit.weights.blocks import Block, SharedTensor
from audit.weights.norms import squared_norm

TITLE = "Rank of the update"
COLUMNS = (
    Column(name="stable_rank", title="stable rank", unit="squared Frobenius norm / squared spectral norm"),
    Column(name="singular_values", title="largest σ", unit="singular values of the update, largest first", kind="list"),
)
LEADING = 5
"""Singular values kept."""
BLOCK_WIDTH = 8
"""Directions of one block."""
KRYLOV_BLOCKS = 5

Spectrum = tuple[float, list[float]]
"""Stable rank and leading singular values."""


class Tally(contract.Tally[Spectrum | None]):
    """Block Krylov iteration over one matrix ``d``: one pass for each block of directions, and a last one.

    Seeded (Musco and Musco 2015, arXiv 1504.05477), with the Rayleigh-Ritz values of the whole basis. They are lower
    bounds: the first within 2 % and the fifth within 3 % for white noise, whose spectrum is flat, and far closer where
    the spectrum is not flat. For the same work, more blocks give more than wider ones. The last pass measures the
    leading directions themselves, after one more power step, so that small values keep their digits.
    """

    def __init__(self, tensor: SharedTensor) -> None:
        super().__init__(tensor)
        self.squared = 0.0
        self.directions: Tensor | None = None
        self.image: Tensor | None = None
        self.basis: list[Tensor] = []
        self.images: list[Tensor] = []
        self.leading: Tensor | None = None
        if len(tensor.compared_shape) == 2 and tensor.has_norm:
            self.directions = start_block(tensor.compared_shape[1])

    def add(self, block: Block) -> None:
        if not block.changed or self.directions is None:
            return
        self.squared += squared_norm(block.delta)
        self.add_delta(block.delta)

    def add_delta(self, delta: Float[Tensor, "rows width"]) -> None:
        if self.leading is not None:
            projected = (self.leading @ delta.T).to(torch.float64)  # [leading, rows]
            self.image = _plus(self.image, projected @ projected.T)
        elif self.directions is not None:
            image = (self.directions @ delta.T) @ delta  # directions' d^T d, [up to 8, n]
            self.image = _plus(self.image, image)

    def needs_another_pass(self) -> bool:
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
            smoothed = vectors[:, -2 * LEADING :].flip(1).to(torch.float32).T @ images  # one more power step
            self.leading = orthonormal(smoothed)
        self.image = None
        return True

    def result(self) -> Spectrum | None:
        """``None`` for a vector, and for an update that is zero or not finite."""
        if self.leading is None or self.image is None:
            return None
        values = torch.linalg.eigvalsh(self.image).clamp_(min=0).sqrt().flip(0)[:LEADING].tolist()
        if values[0] == 0:
            return None
        return max(self.squared / values[0] ** 2, 1.0), values  # exact rank one can round to just below


class Observer(contract.Observer[Spectrum | None]):
    """Keeps the stable rank of each changed matrix."""

    def __init__(self, architecture: Architecture | None) -> None:
        self.ranks: list[float] = []
        self.by_layer: dict[int, list[float]] = defaultdict(list)
        self.n_layers = architecture.n_layers if architecture else 0

    def add(self, tensor: SharedTensor, result: Spectrum | None) -> contract.Columns:
        if result is None:
            return {}
        rank, values = result
        self.ranks.append(rank)
        if tensor.layer is not None:
            self.by_layer[tensor.layer].append(rank)
        return {"stable_rank": rank, "singular_values": values}

    def measure(self) -> Measured:
        layers = range(self.n_layers)
        medians = [statistics.median(self.by_layer[at]) if self.by_layer[at] else None for at in layers]
        return Measured(
            value=statistics.median(self.ranks) if self.ranks else None,
            not_measured=None if self.ranks else "no matrix was changed",
            unit="median stable rank of the changed matrices",
            n=len(self.ranks) or None,
            layers={"unlearned": medians} if any(self.by_layer.values()) else {},
            details={"smallest": min(self.ranks), "largest": max(self.ranks)} if self.ranks else {},
        )


def start_block(width: int) -> Float[Tensor, "k width"]:
    """The first block: up to ``BLOCK_WIDTH`` seeded random orthonormal directions."""
    drawn = torch.randn(width, min(BLOCK_WIDTH, width), generator=torch.Generator().manual_seed(0))
    return orthonormal(drawn.T)


def orthonormal(rows: Float[Tensor, "k width"]) -> Float[Tensor, "rank width"]:
    """Orthonormal rows that span those given, in their order. Householder QR, so rows may be linearly dependent."""
    basis: Tensor = torch.linalg.qr(rows.T).Q.T.contiguous()
    return basis


def _plus(total: Tensor | None, addend: Tensor) -> Tensor:
    return addend if total is None else total.add_(addend)
