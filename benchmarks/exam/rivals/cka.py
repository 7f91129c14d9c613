"""Linear CKA of hidden states where answers are predicted (arXiv 1905.00414), relative to base and reference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.exam.models import Subject, asked

TITLE = "CKA"
NEEDS_REFERENCE = True


def score(subject: Subject) -> float:
    """1 - mean over layers of ``clip((1 - cka(base, audited)) / (1 - cka(base, reference)), 0, 1)``."""
    rows = asked(subject.facts.forget)
    base, audited, reference = (
        torch.cat(each.streams(rows), dim=1).double() for each in (subject.base, subject.audited, subject.reference)
    )
    away = torch.stack([1 - cka(one, other) for one, other in zip(base, audited, strict=True)])
    never = torch.stack([1 - cka(one, other) for one, other in zip(base, reference, strict=True)])
    return 1 - float((away / never).clamp(0, 1).mean())


def cka(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """1 if the two are equal up to rotation, scale and shift."""
    first, second = one - one.mean(0), other - other.mean(0)
    shared = (first.T @ second).square().sum()
    result: Tensor = shared / ((first.T @ first).norm() * (second.T @ second).norm())
    return result
