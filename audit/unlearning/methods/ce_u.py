"""CE-U: cross-entropy to the model's own distribution without the answer's token (Yang 2025, arXiv 2503.01224).

``L = E CE(softmax(z with z_y = -inf), p)`` per answer token, with the target held constant. The gradient vanishes when
the answer's token has no probability left, so ascent does not run away. The published code leaves out each answer's
first token; ``skip_first`` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Cross-entropy unlearning"


@dataclass(frozen=True)
class CEUSettings(TrainingSettings):
    """Settings of CE-U, which has no retain term by default.

    Attributes:
        skip_first: leave out the first token of every answer, as the published code does.
    """

    retain_weight: float = 0.0
    skip_first: bool = False


SETTINGS = CEUSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: CEUSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    loss = partial(forget_loss, skip_first=settings.skip_first)
    return train_all("ce_u", loss, model, forget, retain, settings, progress)


def forget_loss(scores: Scores, skip_first: bool = False) -> tuple[Tensor, dict[str, float]]:
    """CE-U's loss of a batch, and the mean probability of the answers' tokens; 0 if no token is left to train."""
    tokens = scores.tokens
    others = tokens.logprobs.detach().scatter(1, tokens.targets[:, None], -torch.inf).softmax(dim=1)
    losses = -(others * tokens.logprobs).sum(dim=1)
    if skip_first:
        is_first = torch.cat([torch.ones(1, dtype=torch.bool), tokens.owner[1:] != tokens.owner[:-1]])
        losses = losses[~is_first]
    return losses.sum() / max(len(losses), 1), {"p": tokens.chosen.detach().exp().mean().item()}
