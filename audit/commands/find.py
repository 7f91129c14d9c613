"""find(): the value vectors of one model that write a concept, and which of them carry it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from audit.errors import ConceptError
from audit.models.opening import OpenedModel, open_model
from audit.request import RunContext
from audit.result import VectorSearch
from audit.thresholds import COLLATERAL
from audit.vectors.controls import matched_controls
from audit.vectors.records import SearchResult, Validation
from audit.vectors.search import POOL, find_vectors, significant
from audit.vectors.validation import ValidationOptions, validate
from concepts.concept import Concept, from_word, library, load_concept
from concepts.files import ConceptFileError


@dataclass(frozen=True)
class FindOptions:
    """What is searched and measured.

    Attributes:
        limit: number of vectors listed.
        fold_norm: scale the head's columns by the final norm; the default is the raw projection of the paper.
        validate: ablate the vectors, and choose the set that carries the concept (``audit.vectors.validation``).
        activations: with ``validate``: also hold the set's coefficients, by TransformerLens.
        generate: with ``validate``: also score the answers that the model writes without the set.
        collateral: with ``validate``: the most that unrelated answers may fall, in nats per answer token.
    """

    limit: int = 20
    fold_norm: bool = False
    validate: bool = False
    activations: bool = False
    generate: bool = False
    collateral: float = COLLATERAL


def find(
    path: Path,
    concept: str,
    options: FindOptions = FindOptions(),
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    context: RunContext = RunContext(),
) -> VectorSearch:
    """The vectors of the checkpoint ``path`` that write ``concept``: a library name, a file, or any word.

    Raises:
        AuditError: an input cannot be used.
    """
    wanted = concept_or_word(concept)
    model = open_model(path, config, tokenizer)
    result = find_vectors(
        model,
        wanted,
        limit=max(options.limit, POOL) if options.validate else options.limit,
        fold_norm=options.fold_norm,
        seed=context.settings.seed,
        progress=context.progress,
    )
    if not options.validate:
        return result.record()
    validation = _validation(model, result, options, context)
    return replace(result, vectors=result.vectors[: options.limit], validation=validation).record()


def concept_or_word(name: str) -> Concept:
    """A concept of the library or of a file; a name that is neither, and has no file suffix, is a bare word."""
    is_word = name not in library() and not Path(name).suffix and not Path(name).exists()
    try:
        return from_word(name) if is_word else load_concept(name)
    except ConceptFileError as error:
        raise ConceptError(str(error)) from error


def _validation(opened: OpenedModel, result: SearchResult, options: FindOptions, context: RunContext) -> Validation:
    context.progress.step("Loading the model")
    return validate(
        opened.load(context.settings.device, context.settings.dtype),
        result.concept,
        significant(result),
        partial(matched_controls, opened, per_vector=1, candidates=result.candidates),
        ValidationOptions(
            listed=options.limit,
            collateral=options.collateral,
            bridge=opened.bridge if options.activations else None,
            generate=options.generate,
        ),
        context.settings.seed,
        context.progress,
    )
