"""l1-sparse unlearning: training on what is retained while an l1 penalty empties the weights (arXiv 2304.04934).

``min L(theta; retain) + gamma_t |theta|_1`` with ``gamma_t`` falling linearly to 0 (Jia et al. 2023), over the matrices
of attention and FFN. After each update of size ``lr`` every entry is shrunk by ``lr gamma_t`` and stops at zero, the
exact solution of the penalty's part; the published code follows a subgradient, under which no weight becomes exactly
zero. Nothing is trained on what is to be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.parameters import block_matrices
from audit.unlearning.sparsity import zero_shares
from audit.unlearning.training import (
    Record,
    TrainingSettings,
    descent,
    minimise,
    prepare,
    require_positive,
    shuffled,
    trainable,
    unused,
)

TITLE = "Sparse training on what is retained"


@dataclass(frozen=True)
class L1SparseSettings(TrainingSettings):
    """Settings of l1-sparse unlearning.

    Attributes:
        gamma: weight of the penalty at the first step.
    """

    steps: int = 80
    gamma: float = 1.0
    retain_weight: float = unused(1.0)
    retain_loss: Literal["kl", "ce"] = unused("ce")
    forget_batch: int = unused(1)
    lora_rank: int = unused(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "gamma")


SETTINGS = L1SparseSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: L1SparseSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model`` on ``retain`` and shrink its matrices, in place.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: training diverged.
    """
    _, held = prepare(model, forget, retain, needs_retain=True)
    matrices = block_matrices(model)
    batches = shuffled(len(held), settings.retain_batch, torch.Generator().manual_seed(settings.seed))

    def shrink(done: int, learning_rate: float) -> None:
        gamma = settings.gamma * (1 - (done - 1) / settings.steps)
        for matrix in matrices.values():
            matrix.copy_(torch.nn.functional.softshrink(matrix, learning_rate * gamma))

    with trainable(model.model, every=True):
        step, text = partial(descent, model, held), "Training on what is retained"
        trajectory = minimise(model.model.parameters(), batches, step, settings, progress, text, shrink)
    return Record(
        method="l1_sparse",
        settings=settings.as_json(),
        examples={"forget": 0, "retain": len(retain)},
        trajectory=trajectory,
        changed={"parameters": "all", "share_of_zeros": zero_shares(matrices)},
    )
