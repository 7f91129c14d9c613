"""find(): the value vectors of one model that write a concept, streamed layer by layer past ``concepts.discovery``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from audit.architectures import Architecture, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.errors import ConceptError, ModelError
from audit.interventions import Place
from audit.models.ffn import unembedding, value_vectors
from audit.models.loading import find_config, load_bridge, load_model, load_tokenizer
from audit.models.vocabulary import lexicon_of
from audit.progress import SILENT, Progress
from audit.thresholds import COLLATERAL
from audit.vectors.validation import Validation, validate
from concepts.concept import Concept, from_word, library, load_concept, resembling
from concepts.discovery import ConceptVector, discover
from concepts.files import ConceptFileError
from concepts.tokens import ConceptTokens, concept_tokens, source_text

NOT_VALIDATED = "not measured: no vector was ablated, so whether it carries the concept causally is open"
POOL = 64
"""Vectors that write the concept, of which the causal set may be made."""
SIGNIFICANT = 0.05
"""Benjamini-Hochberg level below which a vector counts as writing the concept."""


@dataclass(frozen=True)
class FoundVectors:
    """A concept's vectors in one model, best first, and the words that they were found by.

    ``projection`` says whether the final norm's scale was folded into the head; ``screened`` is the number of value
    vectors looked at; ``candidates`` are the (layer, neuron) of all that were shortlisted, listed or not;
    ``validation`` is what ablating them showed, where that was asked for.
    """

    concept: Concept
    vectors: tuple[ConceptVector, ...]
    tokens: ConceptTokens
    projection: str
    screened: int
    candidates: frozenset[tuple[int, int]]
    validation: Validation | None = None

    def as_json(self) -> dict[str, Any]:
        effects = {}
        if self.validation is not None:
            effects = {(row.vector.layer, row.vector.neuron): row.as_json() for row in self.validation.vectors}
        return {
            "concept": self.concept.name,
            "title": self.concept.title,
            "words": list(self.tokens.words),
            "words_of_several_tokens": list(self.tokens.skipped),
            "projection": self.projection,
            "screened": self.screened,
            "vectors": [
                {
                    "layer": vector.layer,
                    "neuron": vector.neuron,
                    "sign": vector.sign,
                    "score": vector.score,
                    "p_value": vector.p_value,
                    "q_value": vector.q_value,
                    "tokens": list(vector.tokens),
                    "effect": effects.get((vector.layer, vector.neuron)),
                }
                for vector in self.vectors
            ],
            "effect": NOT_VALIDATED if self.validation is None else self.validation.as_json(),
        }


def find(
    checkpoint: Checkpoint,
    architecture: Architecture,
    concept: Concept,
    tokenizer: Any,
    *,
    limit: int = 20,
    fold_norm: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> FoundVectors:
    """The ``limit`` vectors of the model that most clearly write ``concept``.

    Args:
        fold_norm: scale the head's columns by the final norm; the default is the raw projection of the paper.

    Raises:
        ConceptError: no word of the concept is a single token of this vocabulary.
    """
    W_U = unembedding(checkpoint, architecture)
    if fold_norm:
        W_U = W_U * final_scale(checkpoint, architecture)
    lexicon = lexicon_of(tokenizer, W_U.shape[0])
    try:
        words = concept_tokens(lexicon, concept, W_U.numpy())
    except ValueError as error:
        near = resembling(concept.title) if not source_text(concept) else ""
        hint = f"Give a text, or seeds that are common words{near or '.'}"
        raise ConceptError(f"{error}.", where=f"concept {concept.title}", hint=hint) from error
    layers = stream(checkpoint, architecture, concept.title, progress)
    vectors = discover(layers, W_U, lexicon, words, seed=seed)
    return FoundVectors(
        concept=concept,
        vectors=tuple(vectors[:limit]),
        tokens=words,
        projection="final norm folded in" if fold_norm else "raw",
        screened=architecture.n_layers * architecture.d_mlp,
        candidates=frozenset((vector.layer, vector.neuron) for vector in vectors),
    )


def find_in(
    path: Path,
    concept: str,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    limit: int = 20,
    fold_norm: bool = False,
    validated: bool = False,
    activations: bool = False,
    generated: bool = False,
    collateral: float = COLLATERAL,
    seed: int = 0,
    progress: Progress = SILENT,
) -> FoundVectors:
    """``find`` for a checkpoint and a concept by name, file, or bare word.

    Args:
        validated: ablate the vectors, and search for the set that carries the concept (``audit.vectors.validation``).
        activations: and hold the set's coefficients instead, through TransformerLens.
        generated: and score the answers that the model writes without the set.
        collateral: the most that unrelated answers may lose by that set, in nats per answer token.

    Raises:
        AuditError: an input that cannot be used, in one line.
    """
    wanted = concept_or_word(concept)
    checkpoint = open_checkpoint(path)
    described = read_config(config) if config is not None else own_config(checkpoint)
    architecture = identify(checkpoint, described)
    if architecture is None:
        raise ModelError(why_unknown(checkpoint, described), where=str(path))
    beside = checkpoint.files[0] if checkpoint.format == "gguf" else checkpoint.files[0].parent
    words = load_tokenizer(tokenizer or beside, architecture.d_vocab)
    listed = max(limit, POOL) if validated else limit
    found = find(
        checkpoint, architecture, wanted, words, limit=listed, fold_norm=fold_norm, seed=seed, progress=progress
    )
    if not validated:
        return found
    progress.step("Loading the model")
    settings = find_config(checkpoint, config)
    model = load_model(checkpoint, architecture, settings, words)
    result = validate(
        model,
        wanted,
        significant(found),
        partial(matched_controls, checkpoint, architecture, per_vector=1, candidates=found.candidates),
        listed=limit,
        collateral=collateral,
        bridge=partial(load_bridge, checkpoint, architecture, settings, words) if activations else None,
        generated=generated,
        seed=seed,
        progress=progress,
    )
    return replace(found, vectors=found.vectors[:limit], validation=result)


def significant(found: FoundVectors) -> list[ConceptVector]:
    """The vectors that write the concept beyond chance, each once, by its better side."""
    best: dict[tuple[int, int], ConceptVector] = {}
    for vector in found.vectors:
        if vector.q_value < SIGNIFICANT:
            best.setdefault((vector.layer, vector.neuron), vector)
    return list(best.values())


def concept_or_word(name: str) -> Concept:
    """A concept of the library or of a file; anything that is neither and has no file's ending is a bare word."""
    is_word = name not in library() and not Path(name).suffix and not Path(name).exists()
    try:
        return from_word(name) if is_word else load_concept(name)
    except ConceptFileError as error:
        raise ConceptError(str(error)) from error


def matched_controls(
    checkpoint: Checkpoint,
    architecture: Architecture,
    vectors: Sequence[Place],
    *,
    per_vector: int,
    candidates: Collection[tuple[int, int]] = (),
) -> list[tuple[int, int, int]]:
    """For each vector ``per_vector`` others of its layer with the nearest norm and its sign: (layer, neuron, sign).

    The controls of one vector follow each other, in the order of ``vectors``. No vector serves twice, and neither
    one of ``vectors`` nor one of ``candidates``, (layer, neuron) of whatever may write the concept, is a control.

    Raises:
        ConceptError: a layer has too few other vectors.
    """
    taken = {(vector.layer, vector.neuron) for vector in vectors} | set(candidates)
    norms = {
        layer: value_vectors(checkpoint, architecture, layer).norm(dim=1)
        for layer in sorted({vector.layer for vector in vectors})
    }
    controls: list[tuple[int, int, int]] = []
    for vector in vectors:
        nearest = (norms[vector.layer] - norms[vector.layer][vector.neuron]).abs().argsort(stable=True).tolist()
        free = [(vector.layer, neuron) for neuron in nearest if (vector.layer, neuron) not in taken][:per_vector]
        if len(free) < per_vector:
            raise ConceptError(f"layer {vector.layer} has too few value vectors to serve as controls.")
        taken |= set(free)
        controls += [(layer, neuron, vector.sign) for layer, neuron in free]
    return controls


def stream(
    checkpoint: Checkpoint, architecture: Architecture, title: str, progress: Progress
) -> Iterator[tuple[int, torch.Tensor]]:
    """(layer, value vectors ``[d_mlp, d_model]``), one layer in memory at a time."""
    for layer in range(architecture.n_layers):
        progress.step(f"Looking for {title} in the value vectors", layer, architecture.n_layers)
        yield layer, value_vectors(checkpoint, architecture, layer)


def final_scale(checkpoint: Checkpoint, architecture: Architecture) -> torch.Tensor:
    """The final norm's scale ``[d_model]`` float32, with the family's offset (Gemma stores scale - 1).

    Ones where the family's norm has no weights (OLMo).
    """
    name = next((name for name, (role, _) in architecture.roles.items() if role == "final_norm"), None)
    if name is None:
        return torch.ones(architecture.d_model)
    return checkpoint.tensor(name).to(torch.float32) + architecture.norm_offset
