"""SimNPO: negative preference optimization without a reference (Fan et al. 2024, arXiv 2410.07163).

``L = -(2/beta) E log sigma(-beta log p(y|x)/|y| - delta) + retain_weight * retain``. The log-probability is divided by
the answer's length, so that short answers are not forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, TrainingSettings, require_positive

TITLE = "Simple negative preference optimization"


@dataclass(frozen=True)
class SimNPOSettings(TrainingSettings):
    """Settings of SimNPO.

    Attributes:
        beta: inverse temperature.
        delta: margin, in the logit of sigma.
    """

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"
    beta: float = 2.5
    delta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")


SETTINGS = SimNPOSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: SimNPOSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    loss = partial(forget_loss, beta=settings.beta, delta=settings.delta)
    return train_all("simnpo", loss, model, forget, retain, settings, progress)


def forget_loss(scores: Scores, beta: float, delta: float) -> tuple[Tensor, dict[str, float]]:
    """SimNPO's loss of a batch, and the mean log-probability of an answer's token, in nats."""
    per_token = scores.now[:, 0] / scores.lengths
    loss = -(2 / beta) * torch.nn.functional.logsigmoid(-beta * per_token - delta).mean()
    return loss, {"per_token": per_token.mean().item()}
