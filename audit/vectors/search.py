"""Search: the value vectors of one model that write a concept, read layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.checkpoint import Checkpoint
from audit.errors import ConceptError
from audit.models.ffn import unembedding, value_vectors
from audit.models.opening import OpenedModel
from audit.models.vocabulary import lexicon_of
from audit.progress import SILENT, Progress
from audit.vectors.records import SearchResult
from concepts.concept import Concept, resembling
from concepts.discovery import FALSE_DISCOVERY_RATE, ConceptVector, discover
from concepts.neuron import Neuron
from concepts.tokens import concept_tokens, source_text

POOL = 64
"""Vectors that write the concept, among which the causal set is chosen."""


def find_vectors(
    model: OpenedModel,
    concept: Concept,
    *,
    limit: int = 20,
    fold_norm: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SearchResult:
    """The ``limit`` vectors that write ``concept`` most clearly.

    Args:
        fold_norm: scale the head's columns by the final norm; the default is the raw projection of the paper.

    Raises:
        ConceptError: no word of the concept is a single token of this vocabulary.
        ModelError: the architecture or the tokenizer is missing.
    """
    checkpoint, architecture = model.checkpoint, model.require_architecture()
    W_U = unembedding(checkpoint, architecture)
    if fold_norm:
        W_U = W_U * final_scale(checkpoint, architecture)
    lexicon = lexicon_of(model.require_tokenizer(), W_U.shape[0])
    try:
        words = concept_tokens(lexicon, concept, W_U.numpy())
    except ValueError as error:
        near = resembling(concept.title) if not source_text(concept) else ""
        hint = f"Give a text, or seeds that are common words{near or '.'}"
        raise ConceptError(f"{error}.", where=f"concept {concept.title}", hint=hint) from error
    layers = stream(checkpoint, architecture, concept.title, progress)
    vectors = discover(layers, W_U, lexicon, words, seed=seed)
    return SearchResult(
        concept=concept,
        vectors=tuple(vectors[:limit]),
        tokens=words,
        projection="final norm folded in" if fold_norm else "raw",
        screened=architecture.n_layers * architecture.d_mlp,
        candidates=frozenset(vector.place for vector in vectors),
    )


def significant(result: SearchResult) -> list[ConceptVector]:
    """The vectors that write the concept beyond chance, each neuron once, with its better sign."""
    best: dict[Neuron, ConceptVector] = {}
    for vector in result.vectors:
        if vector.q_value < FALSE_DISCOVERY_RATE:
            best.setdefault(vector.place, vector)
    return list(best.values())


def stream(
    checkpoint: Checkpoint, architecture: Architecture, title: str, progress: Progress
) -> Iterator[tuple[int, Float[Tensor, "d_mlp d_model"]]]:
    """Each layer's number and value vectors, one layer in memory at a time."""
    for layer in range(architecture.n_layers):
        progress.step(f"Searching the value vectors for {title}", layer, architecture.n_layers)
        yield layer, value_vectors(checkpoint, architecture, layer)


def final_scale(checkpoint: Checkpoint, architecture: Architecture) -> Float[Tensor, " d_model"]:
    """The final norm's scale, float32, with the family's offset (Gemma stores scale - 1).

    Ones where the family's norm has no weights (OLMo).
    """
    name = next((name for name, (role, _) in architecture.roles.items() if role == "final_norm"), None)
    if name is None:
        return torch.ones(architecture.d_model)
    return checkpoint.tensor(name).to(torch.float32) + architecture.norm_offset
