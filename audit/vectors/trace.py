"""Concept vectors followed from base to unlearned: their rows, their top tokens, their target ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audit.checkpoint import Checkpoint
from audit.checkpoint.pair import ModelPair
from audit.models.ffn import unembedding, value_vectors

TOP = 200
"""Size of the token sets compared by Jaccard (Hong et al. 2024, section 5)."""

Place = tuple[int, int, int]
"""Layer, neuron, sign."""


Projected = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows ``[n, d_model]``, top token ids ``[n, TOP]`` and ranks of the concept tokens ``[n, n_tokens]``."""


@dataclass(frozen=True)
class TracedVector:
    """One value vector before and after unlearning.

    Attributes:
        layer, neuron, sign: where it is and which side of its projection carries the concept.
        before, after: the row ``W_out[neuron]``, float32 ``[d_model]``.
        top_before, top_after: ids of the largest entries of ``sign * W_U v``, each model's own head, best first.
        ranks_before, ranks_after: rank (0 is best) of each concept token in ``sign * W_U v``, ``[n_tokens]``.
    """

    layer: int
    neuron: int
    sign: int
    before: np.ndarray
    after: np.ndarray
    top_before: np.ndarray
    top_after: np.ndarray
    ranks_before: np.ndarray
    ranks_after: np.ndarray


@dataclass(frozen=True)
class TracedVectors:
    """The concept's vectors, found in the base or named by it, and control vectors of the same layers and nearest norm.

    ``writes`` are the first of each vector's top tokens in the base, in text; ``tokens`` the concept's token ids;
    ``words`` the same in text; ``controls_per_vector`` controls follow each other in the order of ``vectors``.
    ``dtype`` is the files' number format, whose rounding is the noise floor.
    """

    writes: tuple[tuple[str, ...], ...]
    vectors: tuple[TracedVector, ...]
    controls: tuple[TracedVector, ...]
    controls_per_vector: int
    tokens: np.ndarray
    words: tuple[str, ...]
    dtype: str


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
