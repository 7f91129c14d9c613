"""Primal-dual unlearning: the retain term's weight follows from how much is lost (arXiv 2506.05314).

``min L_forget`` under the constraint ``L_retain <= epsilon``: after each step
``lambda <- max(0, lambda + eta (L_retain - epsilon))``, and the loss is ``L_forget + lambda L_retain`` (Entesari et al.
2025). A wrapper: the forget loss is that of another method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods._losses import LossName, loss_of
from audit.unlearning.objective import Extras, train_all
from audit.unlearning.training import Record, TrainingSettings, require_positive

TITLE = "Primal-dual unlearning"


@dataclass(frozen=True)
class PDUSettings(TrainingSettings):
    """Settings of PDU; ``retain_weight`` is the multiplier at the first step.

    Attributes:
        loss: the method whose forget loss is minimised, with that method's own settings.
        tolerance: the value of the retain term that is allowed, in nats per token.
        dual_rate: by how much the multiplier follows the excess.
    """

    retain_weight: float = 1.0
    loss: LossName = "npo"
    tolerance: float = 0.05
    dual_rate: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "retain_weight", "tolerance", "dual_rate")


SETTINGS = PDUSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: PDUSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    reweight = partial(next_multiplier, tolerance=settings.tolerance, rate=settings.dual_rate)
    extras = Extras(reweight=reweight)
    return train_all("pdu", loss_of(settings.loss), model, forget, retain, settings, progress, extras)


def next_multiplier(multiplier: float, retained: float, tolerance: float, rate: float) -> float:
    """The multiplier after a step at which the retain term was ``retained``; it is never negative."""
    return max(0.0, multiplier + rate * (retained - tolerance))
