"""SatImp: ascent on tokens weighted by saturation and importance (Yang et al. 2025, arXiv 2505.11953).

``L = E p_t^beta1 (1 - p_t)^beta2 log p_t + retain_weight * retain`` per answer token, with the weight held constant:
tokens that are unlikely already, or certain whatever the question, count less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Ascent weighted by saturation and importance"


@dataclass(frozen=True)
class SatImpSettings(TrainingSettings):
    """Settings of SatImp.

    Attributes:
        beta1, beta2: powers of a token's probability and of its complement in its weight.
    """

    retain_weight: float = 0.1
    retain_loss: Literal["kl", "ce"] = "ce"
    beta1: float = 5.0
    beta2: float = 1.0


SETTINGS = SatImpSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: SatImpSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    loss = partial(forget_loss, beta1=settings.beta1, beta2=settings.beta2)
    return train_all("satimp", loss, model, forget, retain, settings, progress)


def forget_loss(scores: Scores, beta1: float, beta2: float) -> tuple[Tensor, dict[str, float]]:
    """SatImp's loss of a batch, and the mean weight of a token."""
    chosen = scores.tokens.chosen
    probability = chosen.detach().exp()
    weight = probability**beta1 * (1 - probability) ** beta2
    return (weight * chosen).mean(), {"weight": weight.mean().item()}
