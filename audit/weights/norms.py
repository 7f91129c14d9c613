"""Norms and cosines of large tensors from sums over blocks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def squared_norm(rows: Float[Tensor, "*shape"]) -> float:
    """Sum of the squares of all elements."""
    flat = rows.reshape(-1)
    return float(torch.dot(flat, flat))


def cosine(base: float, unlearned: float, delta: float) -> float | None:
    """Cosine of ``W`` and ``W'`` from the squared norms of ``W``, ``W'`` and ``W' - W``.

    ``1 - (||d||^2 - (||W'|| - ||W||)^2) / (2 ||W'|| ||W||)`` keeps its digits for a small update, where a dot product
    in float32 rounds to 1. ``None`` where a norm is zero or not finite.
    """
    product = math.sqrt(base) * math.sqrt(unlearned)
    if product == 0 or not math.isfinite(product):
        return None
    rotation = delta - (math.sqrt(unlearned) - math.sqrt(base)) ** 2
    return 1 - max(rotation, 0.0) / (2 * product)
