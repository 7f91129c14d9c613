"""Concept vectors followed from base to unlearned: their rows, their top tokens, their target ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from audit.checkpoint import Checkpoint
from audit.mlp import unembedding, value_vectors
from audit.pair import ModelPair
from audit.subjects import TracedVector

TOP = 200
"""Size of the token sets compared by Jaccard (Hong et al. 2024, section 5)."""

Place = tuple[int, int, int]
"""Layer, neuron, sign."""


Projected = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows ``[n, d_model]``, top token ids ``[n, TOP]`` and ranks of the concept tokens ``[n, n_tokens]``."""


def trace(pair: ModelPair, places: Sequence[Place], tokens: np.ndarray) -> tuple[TracedVector, ...]:
    """The vectors at ``places``, before and after, in the order given.

    Each model's vectors are projected through its own head, without the final norm, as in the paper.

    Args:
        places: (layer, neuron, sign) of each vector.
        tokens: concept token ids ``[n_tokens]``.
    """
    assert pair.architecture is not None
    found = [
        project(_rows(pair, checkpoint, places), unembedding(checkpoint, pair.architecture), places, tokens)
        for checkpoint in (pair.base, pair.unlearned)
    ]
    return followed(places, *found)


def project(rows: torch.Tensor, head: torch.Tensor, places: Sequence[Place], tokens: np.ndarray) -> Projected:
    """One model's value vectors ``[n, d_model]`` and what they write through its head ``[d_vocab, d_model]``."""
    signs = torch.tensor([sign for _, _, sign in places], dtype=torch.float32)
    scores = (signs[:, None] * rows) @ head.T  # [n, d_vocab]
    top = scores.topk(min(TOP, scores.shape[1]), dim=1).indices
    wanted = scores[:, torch.from_numpy(tokens)]
    ordered = scores.sort(dim=1).values  # ascending; ties share the best rank
    ranks = scores.shape[1] - torch.searchsorted(ordered, wanted.contiguous(), right=True)
    return rows.numpy(), top.numpy(), ranks.numpy()


def followed(places: Sequence[Place], before: Projected, after: Projected) -> tuple[TracedVector, ...]:
    """The vectors at ``places`` as two models have them."""
    both = zip(places, *before, *after, strict=True)
    return tuple(
        TracedVector(layer, neuron, sign, row, row_after, top, top_after, ranks, ranks_after)
        for (layer, neuron, sign), row, top, ranks, row_after, top_after, ranks_after in both
    )


def _rows(pair: ModelPair, checkpoint: Checkpoint, places: Sequence[Place]) -> torch.Tensor:
    """Value vectors ``[n, d_model]``, one layer in memory at a time."""
    assert pair.architecture is not None
    by_layer: dict[int, list[int]] = defaultdict(list)
    for index, (layer, _, _) in enumerate(places):
        by_layer[layer].append(index)
    rows = torch.empty(len(places), pair.architecture.d_model)
    for layer, indices in sorted(by_layer.items()):
        matrix = value_vectors(checkpoint, pair.architecture, layer)
        for index in indices:
            rows[index] = matrix[places[index][1]]
    return rows
