"""Gradient ascent (GA): raise the loss of the answers to forget, and nothing else (Jang et al. 2022, arXiv 2210.01504).

``L = E log p(y|x)`` per answer token. The loss is unbounded and has no retain term: long training destroys the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, TrainingSettings, unused

TITLE = "Gradient ascent"


@dataclass(frozen=True)
class GradientAscentSettings(TrainingSettings):
    """Settings of gradient ascent, which has no retain term."""

    retain_weight: float = unused(0.0)
    retain_loss: Literal["kl", "ce"] = unused("kl")
    retain_batch: int = unused(1)


SETTINGS = GradientAscentSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: GradientAscentSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``; ``retain`` is not used.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("gradient_ascent", forget_loss, model, forget, retain, settings, progress)


def forget_loss(scores: Scores) -> tuple[Tensor, dict[str, float]]:
    """Mean log-probability of the batch's answer tokens, in nats."""
    return scores.now[:, 0].sum() / scores.lengths.sum(), {}
