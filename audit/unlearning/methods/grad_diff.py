"""Gradient difference (GradDiff): ascent on the answers to forget, descent on those to retain (Liu et al. 2022).

``L = E log p(y|x) + retain_weight * retain`` (arXiv 2203.12817), the first term per answer token. The defaults are the
published method: cross-entropy of the retained answers with a weight of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods.gradient_ascent import forget_loss
from audit.unlearning.objective import train_all
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Gradient difference"


@dataclass(frozen=True)
class GradDiffSettings(TrainingSettings):
    """Settings of GradDiff."""

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"


SETTINGS = GradDiffSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: GradDiffSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget`` and for those of ``retain``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("grad_diff", forget_loss, model, forget, retain, settings, progress)
