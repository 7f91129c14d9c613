"""The reference: a model that never saw what is to be forgotten, read once by the methods that learn from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.opening import OpenedModel, open_model
from audit.models.packing import Pack, Tokens
from audit.models.tokenizer import Tokenizer
from audit.progress import Progress
from audit.unlearning.training import TrainingSettings, rows_of
from concepts.concept import neutral_text

Reading = TypeVar("Reading")
SAMPLE: Final = 1000
"""Characters of text by which tokenizers are compared."""


@dataclass(frozen=True)
class ReferenceSettings(TrainingSettings):
    """Settings of the methods that learn from a reference.

    Attributes:
        reference: folder of a model that never saw what is to be forgotten, with the tokenizer of the model.
    """

    reference: str | None = None


def open_reference(settings: ReferenceSettings, model: RunningModel) -> OpenedModel:
    """The reference of ``model``; no weights are read yet.

    Raises:
        AuditError: none is given, or its tokens are others.
        CheckpointError, ModelError: it cannot be opened.
    """
    if not settings.reference:
        raise AuditError(
            "the method learns from a reference, and none is given.",
            hint="Pass --option reference=FOLDER, a model that never saw what is to be forgotten.",
        )
    opened = open_model(Path(settings.reference))
    tokenizer, d_vocab = opened.tokenizer, opened.require_architecture().d_vocab
    same = tokenizer is not None and _tokens(tokenizer) == _tokens(model.tokenizer)
    if not same or d_vocab != model.architecture.d_vocab:
        raise AuditError(
            "the reference has another tokenizer or vocabulary than the model, or none.",
            where=settings.reference,
            hint="Give a reference with the model's own tokens.",
        )
    return opened


def _tokens(tokenizer: Tokenizer) -> tuple[Mapping[str, int], list[int]]:
    """What tells two tokenizers apart: their tokens, and how they divide a text."""
    return tokenizer.get_vocab(), tokenizer(neutral_text()[:SAMPLE])["input_ids"]


def read_reference(
    opened: OpenedModel,
    model: RunningModel,
    examples: Sequence[Tokens],
    read: Callable[[RunningModel, Pack], Sequence[Reading]],
    settings: TrainingSettings,
    progress: Progress,
) -> list[Reading]:
    """What ``read`` takes of each example of a row, for all of ``examples``.

    The reference runs where ``model`` does and in its number format, and is in memory until this returns.
    """
    progress.step("Loading the reference")
    reference = opened.load(str(model.device), str(model.model.dtype).removeprefix("torch."))
    size = settings.forget_batch + settings.retain_batch
    with torch.no_grad():
        rows = rows_of(examples, size, progress, "Reading the reference")
        return [each for row in rows for each in read(reference, row)]
