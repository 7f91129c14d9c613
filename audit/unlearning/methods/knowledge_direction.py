"""Adapt, then unlearn: away from where training on the answers leads (Tiwary et al. 2023, arXiv 2309.14054).

First the model is trained further on what is to be forgotten, up to ``theta_N``. Then it starts again from ``theta_0``
and is trained on what is retained, driven away from ``theta_N`` by a term in ``s = |theta - theta_N|^2 / |d|^2`` with
``d = theta_N - theta_0``:

- ``el2``: ``exp(-alpha s)``, which vanishes far away
- ``il2``: ``1 / s``
- ``nl2``: ``|theta - theta_0|^2 / 2 |d|^2 - beta s / 2``, least at ``theta_0 - d beta / (1 - beta)``; unbounded from
  ``beta`` 1 on, and in the paper, where nothing holds ``theta_0``, always

The paper's first stage, of image generators, also has an elastic penalty; a few steps do without. The record has each
matrix's update along ``d`` (``audit.unlearning.direction``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.direction import along, reinforced
from audit.unlearning.objective import Scores, train_all
from audit.unlearning.parameters import block_matrices
from audit.unlearning.training import Record, TrainingSettings, continued, prepare, require_positive, unused

TITLE = "Repulsion from the knowledge direction"


@dataclass(frozen=True)
class KnowledgeDirectionSettings(TrainingSettings):
    """Settings of adapting and then unlearning.

    Attributes:
        adapt_steps: updates of the first stage; ``steps`` are those of the second.
        repulsion: the term that drives the model away.
        alpha: how fast that of ``el2`` falls.
        beta: weight of the distance in ``nl2``, below 1.
    """

    lora_rank: int = unused(0)
    adapt_steps: int = 24
    repulsion: Literal["el2", "il2", "nl2"] = "el2"
    alpha: float = 1.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "adapt_steps", "alpha", "beta")
        if self.beta >= 1:
            raise AuditError(f"beta must be below 1, where the loss has a minimum, but is {self.beta}.")


SETTINGS = KnowledgeDirectionSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: KnowledgeDirectionSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, away from what training on ``forget`` makes of it.

    Raises:
        AuditError: see ``objective.train_all``.
        ModelError: the first stage did not make the answers likelier; see also ``objective.train_all``.
    """
    answers, _ = prepare(model, forget, retain, settings.retain_weight > 0)
    found = reinforced(model, answers, replace(settings, steps=settings.adapt_steps), progress)
    parameters, before, adapted = list(model.model.parameters()), [*found.before.values()], [*found.after.values()]
    length = squared_distance(before, adapted)

    def repel(scores: Scores) -> tuple[Tensor, dict[str, float]]:
        away = squared_distance(parameters, adapted) / length
        home = squared_distance(parameters, before) / length
        return repulsion(away, home, settings), {"distance": away.sqrt().item()}

    record = train_all("knowledge_direction", repel, model, forget, retain, settings, progress)
    updates = {
        name: along(value.detach() - found.before[name], found.direction(name)).as_json()
        for name, value in block_matrices(model).items()
    }
    record = record.with_changed(along_direction=updates)
    return replace(record, trajectory=continued(found.trajectory, record.trajectory))


def repulsion(
    away: Float[Tensor, ""], home: Float[Tensor, ""], settings: KnowledgeDirectionSettings
) -> Float[Tensor, ""]:
    """The term that drives a model away, from its squared distances to ``theta_N`` and to ``theta_0`` in ``|d|^2``."""
    if settings.repulsion == "el2":
        return (-settings.alpha * away).exp()
    if settings.repulsion == "il2":
        return 1 / away
    return home / 2 - settings.beta * away / 2


def squared_distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Over all tensors together."""
    return torch.stack([(a - b).square().sum() for a, b in zip(one, other, strict=True)]).sum().cpu()
