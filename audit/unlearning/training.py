"""Shared by all methods that train: common settings, order of examples, the training loop, and the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, answer_loss, pack, tokenize
from audit.models.tokenizer import Tokenizer
from audit.progress import Progress

After = Callable[[int, float], None]
"""Called after each update with the number of updates so far and the learning rate of this one."""
Step = Callable[[], tuple[Tensor, dict[str, float]]]
"""Gives the loss of the next batch, and the numbers to record."""
Trajectory = tuple[Mapping[str, float], ...]
"""One row for each step, numbered by ``step``."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings that all methods have; each method extends them with its own, and has its own defaults.

    Attributes:
        seed: of the random draws.
    """

    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The settings that can be chosen."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}


def unused(value: Any) -> Any:
    """A field of ``TrainingSettings`` that a method does not read: it cannot be chosen, and is not recorded."""
    return field(default=value, init=False)


@dataclass(frozen=True)
class TrainingSettings(MethodSettings):
    """Settings of the methods that train.

    Attributes:
        steps: number of updates.
        learning_rate: of AdamW (no weight decay), reached linearly over ``warmup`` steps.
        retain_weight: factor of the retain term; 0 means no retain term.
        retain_loss: ``"kl"`` to the model's own distribution before training, or ``"ce"`` on the retained answers.
        forget_batch, retain_batch: examples in each step.
        seed: of the order of examples, the only random draw of most methods.

    Raises:
        AuditError: a number is out of range.
    """

    steps: int = 24
    learning_rate: float = 4e-5
    retain_weight: float = 10.0
    retain_loss: Literal["kl", "ce"] = "kl"
    forget_batch: int = 8
    retain_batch: int = 16
    warmup: int = 5

    def __post_init__(self) -> None:
        require_positive(self, "steps", "learning_rate", "forget_batch", "retain_batch", "warmup")
        if self.retain_weight < 0:
            raise AuditError(f"retain_weight must not be negative, but is {self.retain_weight}.")


def require_positive(settings: MethodSettings, *names: str) -> None:
    """Raises AuditError for the first of these settings that is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise AuditError(f"{name} must be positive, not {getattr(settings, name)}.")


@dataclass(frozen=True)
class Record:
    """What was done to a model: the content of unlearning.json, which is saved with it.

    Attributes:
        method: the method's file name.
        settings: of the method.
        examples: number of training examples by set; empty if nothing was trained.
        trajectory: one row for each step.
        changed: what the edit may have changed, e.g. ``{"value_vectors": [[layer, neuron], ...]}``.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    trajectory: Trajectory = ()
    changed: Mapping[str, Any] = field(default_factory=dict)

    def with_changed(self, **changed: Any) -> Record:
        """The record with more about what was changed."""
        return replace(self, changed={**self.changed, **changed})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def prepare(
    tokenizer: Tokenizer, forget: Sequence[Example], retain: Sequence[Example], needs_retain: bool
) -> tuple[list[Tokens], list[Tokens]]:
    """Both sets as token ids.

    Raises:
        AuditError: a set that the method needs is empty, an answer is empty, or an example is in both sets.
    """
    if not forget:
        raise AuditError("there is nothing to forget.", hint="Give at least one example.")
    if needs_retain and not retain:
        raise AuditError("there is nothing to retain.", hint="Give examples, or set retain_weight to 0.")
    both = sorted({example.prompt for example in forget} & {example.prompt for example in retain})
    if both:
        raise AuditError(f"{both[0]!r} is to be forgotten and retained at once.", hint="Leave it in one of the sets.")
    return tokenize(tokenizer, forget), tokenize(tokenizer, retain)


def descent(
    model: RunningModel, examples: Sequence[Tokens], batches: Iterator[list[int]]
) -> tuple[Tensor, dict[str, float]]:
    """A ``Step`` towards the answers: the mean loss of the next batch's tokens."""
    return answer_loss(model, pack([(index, examples[index]) for index in next(batches)])), {}


def shuffled(n_items: int, batch: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of ``batch`` indices: every item once before any is repeated, and never twice in one batch.

    A batch may hold the last items of one epoch and the first of the next.
    """
    batch = min(batch, n_items)
    order: list[int] = []
    while True:
        if len(order) < batch:
            begun = set(order)
            epoch = torch.randperm(n_items, generator=generator).tolist()
            order += sorted(epoch, key=lambda index: index in begun)
        yield order[:batch]
        order = order[batch:]


def minimise(
    parameters: Iterable[torch.nn.Parameter],
    step: Step,
    settings: TrainingSettings,
    progress: Progress,
    text: str,
    after: After | None = None,
) -> Trajectory:
    """``settings.steps`` updates by AdamW; the numbers that ``step`` recorded before each update.

    Args:
        after: what else is done to the weights after each update.

    Raises:
        ModelError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    trajectory = []
    for done in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (done + 1) / settings.warmup)
        loss, readings = step()
        if not math.isfinite(loss.item()):
            raise ModelError(f"the loss is {loss.item()} at step {done}.", hint="Lower learning_rate.")
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            with torch.no_grad():
                after(done + 1, optimizer.param_groups[0]["lr"])
        trajectory.append({"step": done, "loss": loss.item(), **readings})
        progress.step(text, done + 1, settings.steps)
    return tuple(trajectory)


def continued(first: Trajectory, second: Trajectory) -> Trajectory:
    """Two trainings one after the other, with the second's steps numbered on."""
    return (*first, *({**row, "step": row["step"] + len(first)} for row in second))


@contextmanager
def trainable(model: torch.nn.Module, every: bool) -> Iterator[None]:
    """Let all parameters of ``model`` be trained (``every``) or none, and restore the earlier state afterwards.

    The model stays in evaluation mode: with dropout, log-probabilities would differ from the reference's.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(every)
        with torch.enable_grad():
            yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
