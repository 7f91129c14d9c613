"""Negative Preference Optimization with a retain term (Zhang et al. 2024, arXiv 2404.05868).

``L = -(2/beta) E log sigma(-beta log(p(y|x) / p_ref(y|x))) + retain_weight * retain``, with the log-probability
summed over the answer's tokens. Its gradient is gradient ascent's, each example weighted by
``W = 2 p^beta / (p^beta + p_ref^beta)``: 1 at the start, falling to 0 as the answer becomes unlikely, so that it
stops itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, Settings

TITLE = "Negative preference optimization with a retain term"


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings = Settings(),
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("npo", forget_loss, model, forget, retain, settings, progress)


def forget_loss(scores: Scores, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """NPO's loss of a batch, and W."""
    now, reference = scores.now[:, 0], scores.reference[:, 0]
    weight = gradient_weight(now.detach(), reference, settings.beta).mean().item()
    return preference_loss(now, reference, settings.beta), {"W": weight}


def preference_loss(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, ""]:
    """NPO's loss from the answers' log-probabilities in nats, now and at the start."""
    return -(2 / beta) * torch.nn.functional.logsigmoid(-beta * (logprobs - reference)).mean()


def gradient_weight(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, " examples"]:
    """W, the share of gradient ascent's step that each example still takes: 1 at the start, 2 at most."""
    return 2 * torch.sigmoid(beta * (logprobs - reference))
