"""Gradient ascent (GA): raise the loss of the answers to forget, and nothing else (Jang et al. 2022, arXiv 2210.01504).

``L = E log p(y|x)`` per answer token. It has no bound and no retain term, so it destroys a model that it trains for
long: the first thing an audit must see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, Settings

TITLE = "Gradient ascent"


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings = Settings(),
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``; ``retain`` is not used.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    alone = replace(settings, retain_weight=0.0)
    return train_all("gradient_ascent", forget_loss, model, forget, retain, alone, progress)


def forget_loss(scores: Scores, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """Mean log-probability of the batch's answer tokens, in nats."""
    return scores.now[:, 0].sum() / scores.lengths.sum(), {}
