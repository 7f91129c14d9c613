"""Weighted gradient ascent (WGA): tokens count by their probability (Wang et al. 2025, arXiv 2502.19301).

``L = E p_t^beta log p_t`` per answer token, with the weight held constant. Tokens that are unlikely already are left
alone, so ascent does not run away. ``beta`` 0 is gradient ascent.
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

TITLE = "Weighted gradient ascent"


@dataclass(frozen=True)
class WGASettings(TrainingSettings):
    """Settings of WGA.

    Attributes:
        beta: power of a token's probability in its weight.
    """

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"
    beta: float = 1.0


SETTINGS = WGASettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: WGASettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("wga", partial(forget_loss, beta=settings.beta), model, forget, retain, settings, progress)


def forget_loss(scores: Scores, beta: float) -> tuple[Tensor, dict[str, float]]:
    """WGA's loss of a batch, and the mean weight of a token."""
    chosen = scores.tokens.chosen
    weight = (beta * chosen.detach()).exp()
    return (weight * chosen).mean(), {"weight": weight.mean().item()}
