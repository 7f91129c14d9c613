"""Gradient ascent with a KL term that holds the retained answers (Maini et al. 2024, arXiv 2401.06121: "KL").

``L = E log p(y|x) + retain_weight * KL(before || now)``, the first term per answer token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods.gradient_ascent import forget_loss
from audit.unlearning.objective import train_all
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Gradient ascent with KL minimisation"


@dataclass(frozen=True)
class KLSettings(TrainingSettings):
    """Settings of KL: the published weight of the retain term is 1."""

    retain_weight: float = 1.0


SETTINGS = KLSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: KLSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    return train_all("kl", forget_loss, model, forget, retain, settings, progress)
