"""UNDIAL: distillation from the model's own distribution, in which the answer's logits are lowered (arXiv 2402.10052).

``L = E CE(softmax(z_before - beta 1_y), p)`` per answer token (Dong et al. 2024). The published code averages over
prompt and padding too and reads the vocabulary at the padding's label; here the answers' tokens alone count.
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

TITLE = "Distillation from lowered logits"


@dataclass(frozen=True)
class UNDIALSettings(TrainingSettings):
    """Settings of UNDIAL, which has no retain term by default.

    Attributes:
        beta: by how much the logit of each of the answer's tokens is lowered.
    """

    retain_weight: float = 0.0
    beta: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")


SETTINGS = UNDIALSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: UNDIALSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, towards its own distribution without the answers of ``forget``.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    loss = partial(forget_loss, beta=settings.beta)
    return train_all("undial", loss, model, forget, retain, settings, progress, Extras(needs_before=True))


def forget_loss(scores: Scores, beta: float) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy to the lowered distribution, and the probability that it leaves to the answer's tokens."""
    tokens = scores.tokens
    assert tokens.before is not None  # see ``train_all``
    lowered = tokens.before.scatter_add(1, tokens.targets[:, None], torch.full((len(tokens.targets), 1), -beta))
    wanted = lowered.softmax(dim=1)
    left = wanted.gather(1, tokens.targets[:, None]).mean().item()
    return -(wanted * tokens.logprobs).sum(dim=1).mean(), {"left": left}
