"""Negative Preference Optimization with a retain term (Zhang et al. 2024, arXiv 2404.05868).

``L = -(2/beta) E log sigma(-beta log(p(y|x) / p_ref(y|x))) + retain_weight * retain``, with the log-probability
summed over the answer's tokens. Its gradient is that of gradient ascent with each example weighted by
``W = 2 p^beta / (p^beta + p_ref^beta)``, which is 1 at the start and falls to 0 as the answer becomes unlikely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, TrainingSettings, require_positive

TITLE = "Negative preference optimization with a retain term"


@dataclass(frozen=True)
class NPOSettings(TrainingSettings):
    """Settings of NPO.

    Attributes:
        beta: inverse temperature; smaller values are closer to gradient ascent.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")


SETTINGS = NPOSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: NPOSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("npo", partial(forget_loss, beta=settings.beta), model, forget, retain, settings, progress)


def forget_loss(scores: Scores, beta: float) -> tuple[Tensor, dict[str, float]]:
    """NPO's loss of a batch, and the mean weight W."""
    now, reference = scores.now[:, 0], scores.reference[:, 0]
    weight = gradient_weight(now.detach(), reference, beta).mean().item()
    return preference_loss(now, reference, beta), {"W": weight}


def preference_loss(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, ""]:
    """NPO's loss, from the answers' log-probabilities in nats now and before training."""
    return -(2 / beta) * torch.nn.functional.logsigmoid(-beta * (logprobs - reference)).mean()


def gradient_weight(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, " examples"]:
    """W, the factor of each example's gradient relative to gradient ascent: 1 at the start, at most 2."""
    return 2 * torch.sigmoid(beta * (logprobs - reference))
