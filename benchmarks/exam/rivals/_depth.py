"""Erasure by layer, relative to a model that never knew, as the unlearning depth score averages it (2605.24614)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 0.05
"""Nats that a layer must cost with the reference, to count as one that encodes the knowledge."""


def kept(reference: Float[Tensor, " n_layers"], audited: Float[Tensor, " n_layers"]) -> float:
    """1 - mean of ``clip(audited / reference, 0, 1)``, weighted by ``reference``; NaN if no layer encodes anything.

    Args:
        reference, audited: by how much the answers' log-probability falls at each layer, in nats.
    """
    encodes = reference > SMALLEST
    if not encodes.any():
        return float("nan")
    weights = reference[encodes]
    erased = (audited[encodes] / weights).clamp(0, 1)
    return 1 - float((erased * weights).sum() / weights.sum())


def own(
    distributions: Float[Tensor, "n_layers n_answer d_vocab"], answer: tuple[int, ...]
) -> Float[Tensor, " n_layers"]:
    """Mean log-probability of the answer's tokens at each layer."""
    targets = torch.tensor(answer)[None, :, None].expand(len(distributions), -1, 1)
    return distributions.gather(2, targets)[..., 0].mean(1)
