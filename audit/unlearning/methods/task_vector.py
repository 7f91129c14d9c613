"""Task-vector negation: what training on the answers changes is taken away instead (arXiv 2212.04089).

``theta = theta_0 - scale * (theta_N - theta_0)``, where ``theta_N`` is the model trained a little further on what is to
be forgotten (Ilharco et al. 2023). There is no retain term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.direction import reinforce
from audit.unlearning.training import Record, TrainingSettings, prepare, require_positive, unused

TITLE = "Task-vector negation"


@dataclass(frozen=True)
class TaskVectorSettings(TrainingSettings):
    """Settings of task-vector negation.

    Attributes:
        scale: how far to go in the opposite direction, in task vectors.
    """

    learning_rate: float = 2e-5
    forget_batch: int = 16
    scale: float = 1.0
    retain_weight: float = unused(0.0)
    retain_loss: Literal["kl", "ce"] = unused("kl")
    retain_batch: int = unused(1)
    lora_rank: int = unused(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "scale")


SETTINGS = TaskVectorSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: TaskVectorSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model`` on the answers of ``forget``, and go back beyond the beginning, in place.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: training diverged.
    """
    answers, _ = prepare(model, forget, retain, needs_retain=False)
    parameters = list(model.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    trajectory = reinforce(model, answers, settings, progress)
    with torch.no_grad():
        for now, then in zip(parameters, before, strict=True):
            now.copy_(torch.lerp(then, now, -settings.scale))
    return Record(
        method="task_vector",
        settings=settings.as_json(),
        examples={"forget": len(forget), "retain": 0},
        trajectory=trajectory,
        changed={"parameters": "all"},
    )
