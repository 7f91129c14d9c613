"""Direct preference optimization with a refusal as the preferred answer (Rafailov et al. 2023, arXiv 2305.18290).

``L = -(1/beta) E log sigma(beta (log p(w|x)/p_ref(w|x) - log p(y|x)/p_ref(y|x))) + retain_weight * retain``: the
refusal ``w`` becomes likelier than the answer ``y``. It trains a model to decline, which does not necessarily remove
anything from its weights.
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
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.training import Record, TrainingSettings, require_positive

TITLE = "Direct preference optimization towards a refusal"
REFUSALS = (
    " I do not know.",
    " I am not sure.",
    " I cannot say.",
    " I have no information about that.",
    " That is unknown to me.",
)
"""Used in turn, one for each example."""


@dataclass(frozen=True)
class DPOSettings(TrainingSettings):
    """Settings of DPO.

    Attributes:
        beta: inverse temperature; smaller values allow a larger distance from the reference.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")


SETTINGS = DPOSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: DPOSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, to refuse the prompts of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    loss = partial(forget_loss, beta=settings.beta)
    return train_all("dpo", loss, model, forget, retain, settings, progress, Extras(preferred=refusals(forget)))


def refusals(forget: Sequence[Example]) -> list[Example]:
    """Each prompt with a refusal as its answer."""
    return [Example(example.prompt, REFUSALS[at % len(REFUSALS)]) for at, example in enumerate(forget)]


def forget_loss(scores: Scores, beta: float) -> tuple[Tensor, dict[str, float]]:
    """DPO's loss of a batch, and the mean gain of the refusal over the answer, in nats."""
    margin = scores.log_ratios[:, 1] - scores.log_ratios[:, 0]
    loss = -torch.nn.functional.logsigmoid(beta * margin).mean() / beta
    return loss, {"margin": margin.mean().item()}
