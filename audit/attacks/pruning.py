"""Magnitude pruning: the smallest weights of each matrix of the blocks are set to 0.

Small weights carry little of what a model knows, and much of a small update. Embedding, head, norms and biases stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import torch
from torch import Tensor

from audit.attacks import AttackedModel, AttackInput
from audit.attacks._matrices import edited

TITLE = "magnitude pruning"
COST = "passes"
INPUT = "pruning"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

SHARES: Final = (0.1, 0.3, 0.5)


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each share of weights."""
    yield from edited(given, "pruning", {f"{share:.0%} of the weights": partial(pruned, share) for share in SHARES})


def pruned(share: float, matrix: Tensor, number: int) -> Tensor:
    """``matrix`` without the given share of its weights, the smallest; weights that tie with the last go with it."""
    size = matrix.abs().float()
    count = round(share * size.numel())
    if count == 0:
        return matrix
    threshold = size.flatten().kthvalue(count).values
    return torch.where(size > threshold, matrix, 0)
