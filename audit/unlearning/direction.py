"""The knowledge direction: how the weights change when a model is trained further on what it is to forget.

``d = theta_N - theta_0``, matrix by matrix (after Tiwary et al. 2023, arXiv 2309.14054). An update against knowledge
goes back along ``d``: that of task-vector negation has a cosine of -1 with it in every matrix, a random one of
``0 +- 1 / sqrt(n)`` in a matrix of ``n`` entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from audit.errors import ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Tokens, in_rows
from audit.models.scoring import SHORT_PROMPTS, score_rows
from audit.progress import Progress
from audit.unlearning.fine_tuning import preserved
from audit.unlearning.training import TrainingSettings, Trajectory, descent, minimise, shuffled, trainable


@dataclass(frozen=True)
class Along:
    """One update, or several together, relative to the knowledge direction ``d``.

    Attributes:
        product: of the update and ``d``.
        update, direction: their squared norms.
        size: number of weights.
    """

    product: float
    update: float
    direction: float
    size: int

    @property
    def cosine(self) -> float | None:
        """``None`` if the update or ``d`` is zero."""
        lengths = math.sqrt(self.update * self.direction)
        return self.product / lengths if lengths else None

    @property
    def step(self) -> float | None:
        """The update's part along ``d``, in lengths of ``d``; negative away from the knowledge."""
        return self.product / self.direction if self.direction else None

    @property
    def spread(self) -> float:
        """Standard deviation of the cosine of a random update."""
        return 1 / math.sqrt(self.size)

    def as_json(self) -> dict[str, float | None]:
        return {"cosine": self.cosine, "step": self.step}


@dataclass(frozen=True)
class Reinforced:
    """A model's parameters by name before and after it was trained further on some answers."""

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    trajectory: Trajectory

    def direction(self, name: str) -> Tensor:
        return self.after[name] - self.before[name]


def reinforce(
    model: RunningModel, answers: Sequence[Tokens], settings: TrainingSettings, progress: Progress
) -> Trajectory:
    """Train every weight of ``model`` on ``answers``, in place.

    Raises:
        ModelError: training diverged.
    """
    batches = shuffled(len(answers), settings.forget_batch, Generator().manual_seed(settings.seed))
    with trainable(model.model, every=True):
        step, text = partial(descent, model, answers), "Training on what is to be forgotten"
        return minimise(model.model.parameters(), batches, step, settings, progress, text)


def reinforced(
    model: RunningModel, answers: Sequence[Tokens], settings: TrainingSettings, progress: Progress
) -> Reinforced:
    """What ``reinforce`` makes of ``model``, which stays as it is.

    Raises:
        ModelError: the answers did not become likelier, or training diverged.
    """
    names = [name for name, _ in model.model.named_parameters()]
    with preserved(model) as before:
        known = _mean_logprob(model, answers)
        trajectory = reinforce(model, answers, settings, progress)
        if not _mean_logprob(model, answers) > known:
            raise ModelError(
                "training on the answers did not make them likelier, so it shows no direction.",
                hint="Change the learning rate or the number of steps.",
            )
        after = [parameter.detach().clone() for parameter in model.model.parameters()]
    return Reinforced(dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True)), trajectory)


def along(update: Tensor, direction: Tensor) -> Along:
    """One matrix's update relative to its part of the direction."""
    return Along(
        product=(update * direction).sum().item(),
        update=update.square().sum().item(),
        direction=direction.square().sum().item(),
        size=update.numel(),
    )


def together(parts: Iterable[Along]) -> Along:
    """Several matrices as one vector."""
    each = list(parts)
    return Along(
        product=sum(part.product for part in each),
        update=sum(part.update for part in each),
        direction=sum(part.direction for part in each),
        size=sum(part.size for part in each),
    )


def _mean_logprob(model: RunningModel, answers: Sequence[Tokens]) -> float:
    return float(score_rows(model, in_rows(answers, SHORT_PROMPTS)).means.mean())
