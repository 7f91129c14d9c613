"""Direct preference optimization with a refusal as the preferred answer (Rafailov et al. 2023, arXiv 2305.18290).

``L = -(1/beta) E log sigma(beta (log p(w|x)/p_ref(w|x) - log p(y|x)/p_ref(y|x))) + retain_weight * retain``: the
refusal ``w`` is to become likelier than the answer ``y``. It teaches a model to decline, which need not take anything
out of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.training import Record, Settings

TITLE = "Direct preference optimization towards a refusal"
REFUSALS = (
    " I do not know.",
    " I am not sure.",
    " I cannot say.",
    " I have no information about that.",
    " That is unknown to me.",
)
"""Taken in turn, example by example."""


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings = Settings(),
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, to refuse where ``forget`` has answers.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    refusing = [Example(example.prompt, REFUSALS[at % len(REFUSALS)]) for at, example in enumerate(forget)]
    return train_all("dpo", forget_loss, model, forget, retain, settings, progress, instead=refusing)


def forget_loss(scores: Scores, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """DPO's loss of a batch, and by how many nats the refusal gained on the answer."""
    margin = scores.log_ratios[:, 1] - scores.log_ratios[:, 0]
    loss = -torch.nn.functional.logsigmoid(settings.beta * margin).mean() / settings.beta
    return loss, {"margin": margin.mean().item()}
