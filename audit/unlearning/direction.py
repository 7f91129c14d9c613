"""The knowledge direction: how the weights change when a model is trained further on what it is to forget.

``d = theta_N - theta_0``, matrix by matrix (after Tiwary et al. 2023, arXiv 2309.14054). An update against knowledge
goes back along ``d``: that of task-vector negation has a cosine of -1 with it in every matrix, a random one of
``0 +- 1 / sqrt(n)`` in a matrix of ``n`` entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Tokens
from audit.progress import Progress
from audit.unlearning.training import TrainingSettings, Trajectory, descent, minimise, shuffled, trainable


@dataclass(frozen=True)
class Along:
    """One matrix's update relative to the knowledge direction ``d``.

    Attributes:
        cosine: with ``d``; ``None`` if one of the two is zero.
        step: the update's part along ``d``, in lengths of ``d``; negative away from the knowledge.
    """

    cosine: float | None
    step: float | None


def reinforce(
    model: RunningModel, answers: Sequence[Tokens], settings: TrainingSettings, progress: Progress
) -> Trajectory:
    """Train every weight of ``model`` on ``answers``, in place.

    Raises:
        ModelError: training diverged.
    """
    batches = shuffled(len(answers), settings.forget_batch, torch.Generator().manual_seed(settings.seed))
    with trainable(model.model, every=True):
        step, text = partial(descent, model, answers), "Training on what is to be forgotten"
        return minimise(model.model.parameters(), batches, step, settings, progress, text)


def along(updates: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> dict[str, Along]:
    """Name -> the update of each matrix of ``direction`` along it."""
    found = {}
    for name, d in direction.items():
        update = updates[name]
        product, square = (update * d).sum().item(), d.square().sum().item()
        lengths = update.norm().item() * d.norm().item()
        found[name] = Along(product / lengths if lengths else None, product / square if square else None)
    return found
