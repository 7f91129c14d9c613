"""Refusal training (IDK): the answers are replaced by refusals (Maini et al. 2024, arXiv 2401.06121).

``L = -E_t log p(w_t|x) + retain_weight * retain`` with a refusal ``w``. The knowledge certainly remains: this is what a
model that hides looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods.dpo import refusals
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Refusal training"


@dataclass(frozen=True)
class IDKSettings(TrainingSettings):
    """Settings of refusal training."""

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"


SETTINGS = IDKSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: IDKSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, to refuse the prompts of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    extras = Extras(preferred=refusals(forget))
    return train_all("idk", replaced_loss, model, forget, retain, settings, progress, extras)


def replaced_loss(scores: Scores) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of a token of the answers that replace those to forget, in nats."""
    tokens = scores.tokens
    replacing = tokens.owner % 2 == 1  # each answer to forget is followed by the one that replaces it
    return -tokens.chosen[replacing].mean(), {}
