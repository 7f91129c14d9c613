"""``identify``: which model family a checkpoint's tensors make up, checked name by name and shape by shape.

transformers fills a missing or misnamed tensor with random numbers and says so in a log only; an audit would then read
a random layer as "knowledge removed". Here a checkpoint is a complete model of a family, or it is refused with the name
of the tensor, or it belongs to no known family and yields evidence on single tensors only.
"""

from __future__ import annotations

import torch

from audit.architectures.architecture import Architecture, build_architecture
from audit.architectures.config import Config, check_sizes, refuse_variants
from audit.architectures.family import families
from audit.architectures.fit import Fit, fit_names, fit_shapes
from audit.architectures.stored_tensors import StoredTensors
from audit.errors import CheckpointError

HEAD_ROWS = 4096
"""Rows of head and embedding that are compared at a time."""


def identify(checkpoint: StoredTensors, config: Config | None) -> Architecture | None:
    """The checkpoint's architecture, or ``None`` if it belongs to no known family.

    With a config, its ``model_type`` decides; without one, the tensor names do.

    Raises:
        CheckpointError: the family is known, but a tensor is missing, unexpected, misnamed or of another shape, or the
            config contradicts the file.
    """
    try:
        fit, ambiguity = _choose_family(checkpoint, config)
        if fit is None:
            return None
        refuse_variants(fit, config)
        if not fit.exact:
            raise CheckpointError(f"not a complete {fit.family.name} model of {fit.n_layers} layers: {fit.problems()}.")
        sizes = fit_shapes(fit, checkpoint.tensors)
        if config is not None:
            check_sizes(fit.family, config, sizes)
        tied, notes = _tied_head(checkpoint, fit, config)
        return build_architecture(fit, sizes, tied, (*ambiguity, *notes))
    except CheckpointError as error:
        if error.where is not None:
            raise
        raise CheckpointError(error.message, where=str(checkpoint.path), hint=error.hint) from error


def why_unknown(checkpoint: StoredTensors, config: Config | None) -> str:
    """Why ``identify`` returned ``None``, for the report."""
    supported = ", ".join(sorted(model_type for family in families() for model_type in family.model_types))
    if any(name.startswith(("language_model.", "model.language_model.")) for name in checkpoint.tensors):
        return f"a multimodal model, which is not supported (supported: {supported})"
    if config is not None and config.get("model_type") is not None:
        return f"model_type {config['model_type']!r} of config.json is not supported (supported: {supported})"
    return f"the tensor names are of no supported family ({supported})"


def _choose_family(checkpoint: StoredTensors, config: Config | None) -> tuple[Fit | None, tuple[str, ...]]:
    """The family that the config or the tensor names indicate, and a note if the names fit several families."""
    model_type = config.get("model_type") if config is not None else None
    if model_type is not None:
        for family in families():
            if model_type in family.model_types:
                fit = fit_names(family, checkpoint.tensors)
                if fit is None:
                    raise CheckpointError(f"config.json says {model_type}, but no tensor has a name of that family.")
                return fit, ()
        return None, ()
    fits = [fit for family in families() if (fit := fit_names(family, checkpoint.tensors))]
    best = min(fits, key=lambda fit: len(fit.missing) + len(fit.extra), default=None)
    if best is None or best.n_layers == 0 or (best.is_another_family and not best.unsupported):
        return None, ()
    others = [fit.family.name for fit in fits if fit is not best and fit.exact]
    note = f"without config.json the names read as {best.family.name}; those of {', '.join(others)} are the same"
    return best, (note,) if others else ()


def _tied_head(checkpoint: StoredTensors, fit: Fit, config: Config | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the head is the embedding, and a note if the file stores it in an unusual way."""
    head, embedding = fit.family.by_role["head"].pattern, fit.family.by_role["embedding"].pattern
    expected = None if config is None else config.get("tie_word_embeddings", fit.family.tied_by_default)
    if head not in fit.matched:
        if expected is False:
            raise CheckpointError(
                f"{head} is missing: config.json does not tie the head to the embedding.",
                hint="If they are tied, set tie_word_embeddings in config.json.",
            )
        return True, ()
    if _bitwise_equal(checkpoint, head, embedding):
        return True, (f"{head} is stored although it equals the embedding",)
    if expected:
        return False, (f"config.json ties the head to the embedding, but {head} is stored and differs; it is used",)
    return False, ()


def _bitwise_equal(checkpoint: StoredTensors, one: str, other: str) -> bool:
    """Whether two tensors of one shape have equal bytes; stops reading at the first difference."""
    a, b = checkpoint.tensors[one], checkpoint.tensors[other]
    return a.dtype == b.dtype and all(
        torch.equal(
            checkpoint.rows(one, start, min(start + HEAD_ROWS, a.shape[0])).view(torch.uint8),
            checkpoint.rows(other, start, min(start + HEAD_ROWS, a.shape[0])).view(torch.uint8),
        )
        for start in range(0, a.shape[0], HEAD_ROWS)
    )
