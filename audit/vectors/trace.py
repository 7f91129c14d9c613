"""Concept vectors traced from base to unlearned: their rows, their top tokens, the ranks of the concept's tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.checkpoint import Checkpoint
from audit.models.ffn import unembedding, value_vectors
from audit.models.pair import ModelPair
from concepts.discovery import TOP_TOKENS
from concepts.neuron import Neuron


@dataclass(frozen=True)
class Projected:
    """Value vectors of one model and what they write through its head.

    Attributes:
        rows: the value vectors.
        top: ids of the ``TOP_TOKENS`` largest entries of ``sign * W_U v``, best first.
        ranks: rank (0 is best) of each concept token in ``sign * W_U v``.
    """

    rows: Float[np.ndarray, "n d_model"]
    top: Int[np.ndarray, "n top"]
    ranks: Int[np.ndarray, "n n_tokens"]


@dataclass(frozen=True)
class TracedVector:
    """One value vector before and after unlearning.

    Attributes:
        place: the neuron, with the side of the projection that carries the concept.
        before, after: the row ``W_out[neuron]``, float32.
        top_before, top_after: ids of the ``TOP_TOKENS`` largest entries of ``sign * W_U v`` by each model's head.
        ranks_before, ranks_after: rank (0 is best) of each concept token in ``sign * W_U v``.
    """

    place: Neuron
    before: Float[np.ndarray, " d_model"]
    after: Float[np.ndarray, " d_model"]
    top_before: Int[np.ndarray, " top"]
    top_after: Int[np.ndarray, " top"]
    ranks_before: Int[np.ndarray, " n_tokens"]
    ranks_after: Int[np.ndarray, " n_tokens"]


@dataclass(frozen=True)
class TracedVectors:
    """The concept's vectors, searched in the base or named by its file, and control vectors.

    Attributes:
        writes: the first of each vector's top tokens in the base, as text.
        controls: vectors of the same layers and nearest norm; ``controls_per_vector`` of them for each vector follow
            each other, in the order of ``vectors``.
        tokens, words: the concept's tokens, as ids and as text.
        dtype: the files' number format, whose rounding is the noise floor.
    """

    writes: tuple[tuple[str, ...], ...]
    vectors: tuple[TracedVector, ...]
    controls: tuple[TracedVector, ...]
    controls_per_vector: int
    tokens: Int[np.ndarray, " n_tokens"]
    words: tuple[str, ...]
    dtype: str


def trace(pair: ModelPair, places: Sequence[Neuron], tokens: Int[np.ndarray, " n_tokens"]) -> tuple[TracedVector, ...]:
    """The value vectors of ``places`` before and after, in the order given.

    Each model's vectors are projected through its own head, without the final norm, as in the paper.

    Args:
        tokens: ids of the concept's tokens.
    """
    assert pair.architecture is not None
    before, after = (
        project(_rows(pair, checkpoint, places), unembedding(checkpoint, pair.architecture), places, tokens)
        for checkpoint in (pair.base.checkpoint, pair.unlearned.checkpoint)
    )
    return join(places, before, after)


def project(
    rows: Float[Tensor, "n d_model"],
    head: Float[Tensor, "d_vocab d_model"],
    places: Sequence[Neuron],
    tokens: Int[np.ndarray, " n_tokens"],
) -> Projected:
    """One model's value vectors through its head; ``places`` give each vector's sign."""
    signs = torch.tensor([place.sign for place in places], dtype=torch.float32)
    scores = (signs[:, None] * rows) @ head.T  # [n, d_vocab]
    top = scores.topk(min(TOP_TOKENS, scores.shape[1]), dim=1).indices
    token_scores = scores[:, torch.from_numpy(tokens)]
    ordered = scores.sort(dim=1).values  # ascending; ties share the best rank
    ranks = scores.shape[1] - torch.searchsorted(ordered, token_scores.contiguous(), right=True)
    return Projected(rows.numpy(), top.numpy(), ranks.numpy())


def join(places: Sequence[Neuron], before: Projected, after: Projected) -> tuple[TracedVector, ...]:
    """The vectors of ``places`` as two models have them."""
    return tuple(
        TracedVector(
            place=place,
            before=before.rows[i],
            after=after.rows[i],
            top_before=before.top[i],
            top_after=after.top[i],
            ranks_before=before.ranks[i],
            ranks_after=after.ranks[i],
        )
        for i, place in enumerate(places)
    )


def _rows(pair: ModelPair, checkpoint: Checkpoint, places: Sequence[Neuron]) -> Float[Tensor, "n d_model"]:
    """The value vectors, one layer in memory at a time."""
    assert pair.architecture is not None
    by_layer: dict[int, list[int]] = defaultdict(list)
    for index, place in enumerate(places):
        by_layer[place.layer].append(index)
    rows = torch.empty(len(places), pair.architecture.d_model)
    for layer, indices in sorted(by_layer.items()):
        matrix = value_vectors(checkpoint, pair.architecture, layer)
        for index in indices:
            rows[index] = matrix[places[index].neuron]
    return rows
