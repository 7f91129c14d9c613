"""Shared by all methods that train: common settings, order of examples, the training loop, and the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from textwrap import shorten
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, Tokens, answer_loss, in_rows, pack, tokenize
from audit.progress import SILENT, Progress
from audit.unlearning.resumption import Training
from concepts.prompts import ASK

Batch = TypeVar("Batch")
After = Callable[[int, float], None]
"""Called after each update with the number of updates so far and the learning rate of this one."""
Step = Callable[[Batch], tuple[Tensor, dict[str, float]]]
"""Gives the loss of a batch, and the numbers to record."""
SHOWN: Final = 80
"""Characters of an example in an error."""
LOWER: Final = "Lower learning_rate."
WEAKER: Final = "Nothing was trained yet: choose smaller values for the other options."
READING: Final = "Reading the model before training"
Trajectory = tuple[Mapping[str, float], ...]
"""One row for each step, numbered by ``step``."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings that all methods have; each method extends them with its own, and has its own defaults.

    Attributes:
        seed: of the random draws.

    Raises:
        AuditError: a number is not finite.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise AuditError(f"{each.name} must be a finite number, not {value}.")

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
        lora_rank: rank of the low-rank adapters (LoRA, arXiv 2106.09685) that are trained in place of the weights and
            then added to them; 0 for the weights themselves. Adapters need a learning rate about 10 times as large.
        seed: of the order of examples and the adapters' initial values, the only random draws of most methods.

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
    lora_rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "steps", "learning_rate", "forget_batch", "retain_batch", "warmup")
        for name in ("retain_weight", "lora_rank"):
            if not getattr(self, name) >= 0:
                raise AuditError(f"{name} must not be negative, but is {getattr(self, name)}.")


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
        said: mean log-probability of a token of the answers, by set, before and after; in nats.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    trajectory: Trajectory = ()
    changed: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def with_changed(self, **changed: Any) -> Record:
        """The record with more about what was changed."""
        return replace(self, changed={**self.changed, **changed})

    def as_json(self) -> dict[str, Any]:
        """JSON values; a number that is not finite is null."""
        rows = [
            {name: value if math.isfinite(value) else None for name, value in row.items()} for row in self.trajectory
        ]
        return {**asdict(self), "trajectory": rows}


def prepare(
    model: RunningModel, forget: Sequence[Example], retain: Sequence[Example], needs_retain: bool
) -> tuple[list[Tokens], list[Tokens]]:
    """Both sets as token ids of ``model``.

    Raises:
        AuditError: a set that the method needs is empty or has an example that is too long for the model, an answer is
            empty, or the sets overlap.
    """
    if not forget:
        raise AuditError("there is nothing to forget.", hint="Give at least one example.")
    if needs_retain and not retain:
        raise AuditError("there is nothing to retain.", hint="Give examples, or retain_weight=0 if the method has it.")
    refuse_overlap(forget, retain)
    sets = tokenize(model.tokenizer, forget), tokenize(model.tokenizer, retain)
    _refuse_long(model, forget, sets[0])
    if needs_retain:
        _refuse_long(model, retain, sets[1])
    return sets


def _refuse_long(model: RunningModel, examples: Sequence[Example], tokens: Sequence[Tokens]) -> None:
    lengths = [len(each.inputs) for each in tokens]
    if max(lengths, default=0) > model.span:
        longest = lengths.index(max(lengths))
        number = sum(length > model.span for length in lengths)
        raise AuditError(
            f"{number} of {len(examples)} examples exceed the model's {model.span} tokens; the longest has "
            f"{lengths[longest]}: {shorten(asked(examples[longest]), SHOWN)!r}.",
            hint="Shorten them, or leave them out.",
        )


def rows_of(examples: Sequence[Tokens], size: int, progress: Progress = SILENT, text: str = READING) -> Iterator[Pack]:
    """``examples``, numbered in order, in rows of at most ``size``."""
    for number, row in enumerate(in_rows(examples, size), 1):
        yield row
        progress.step(text, min(number * size, len(examples)), len(examples))


def refuse_overlap(forget: Iterable[Example], retain: Iterable[Example]) -> None:
    """Raises AuditError for a question or a sentence that is in both sets (``asked``)."""
    forgotten = {asked(example) for example in forget}
    both = next((example for example in retain if asked(example) in forgotten), None)
    if both is not None:
        raise AuditError(
            f"{asked(both)!r} is to be forgotten and retained at once.", hint="Leave it in one of the sets."
        )


def asked(example: Example) -> str:
    """The question of an example, without those before it, or the whole sentence, however it is spaced and cased."""
    opening, closing = ASK.split("{}")
    last = example.prompt.rpartition("\n\n")[2]
    is_question = last.startswith(opening) and last.endswith(closing)
    text = last.removeprefix(opening).removesuffix(closing) if is_question else example.prompt + example.answer
    return " ".join(text.casefold().split())


def descent(model: RunningModel, examples: Sequence[Tokens], batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
    """A ``Step`` towards the answers: the mean loss of the batch's tokens."""
    return answer_loss(model, pack([(index, examples[index]) for index in batch])), {}


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


def batches_of_both(
    n_forget: int, n_retain: int, settings: TrainingSettings, generator: torch.Generator, first: int | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless pairs of batches: of what is to be forgotten, and of what is retained, which is empty if nothing is.

    Args:
        first: number of the first retained example; by default they follow those to forget.
    """
    offset = n_forget if first is None else first
    forget = shuffled(n_forget, settings.forget_batch, generator)
    if not n_retain:
        yield from ((batch, []) for batch in forget)
    for batch, retain in zip(forget, shuffled(n_retain, settings.retain_batch, generator), strict=True):
        yield batch, [offset + index for index in retain]


def minimise(
    parameters: Iterable[nn.Parameter],
    batches: Iterator[Batch],
    step: Step[Batch],
    settings: TrainingSettings,
    progress: Progress,
    text: str,
    after: After | None = None,
    state: Sequence[Tensor] = (),
) -> Trajectory:
    """``settings.steps`` updates by AdamW; the numbers that ``step`` recorded before each update.

    Inside ``resumption.resumable``, an interrupted training goes on where it was. The batches before are drawn again
    and not used, so that what a step depends on is its batch, the parameters and ``state``, and nothing else.

    Args:
        after: what else is done to the weights after each update.
        state: other tensors that the steps change, in place.

    Raises:
        ModelError: the loss or the weights are not finite.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    training = Training.next(optimizer, state)
    trajectory = training.resume()
    for done, batch in enumerate(islice(batches, settings.steps)):
        if done < len(trajectory):
            continue
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (done + 1) / settings.warmup)
        with training.kept_if_interrupted(trajectory):
            loss, readings = step(batch)
            _require_finite("the loss", loss.item(), done, LOWER if done else WEAKER)
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            with torch.no_grad():
                after(done + 1, optimizer.param_groups[0]["lr"])
        _require_finite("the norm of the weights", torch.nn.utils.get_total_norm(trained).item(), done, LOWER)
        trajectory.append({"step": done, "loss": loss.item(), **readings})
        progress.step(f"{text}{training.note}", done + 1, settings.steps, f"loss {loss.item():.3g}")
        training.keep_if_due(trajectory)
    return tuple(trajectory)


def _require_finite(what: str, value: float, done: int, hint: str) -> None:
    if not math.isfinite(value):
        good = f"the last good step is {done - 1}" if done else "no step was good"
        raise ModelError(f"{what} is {value} at step {done}; {good}.", hint=hint)


def continued(first: Trajectory, second: Trajectory) -> Trajectory:
    """Two trainings one after the other, with the second's steps numbered on."""
    return (*first, *({**row, "step": row["step"] + len(first)} for row in second))


@contextmanager
def trainable(model: nn.Module, every: bool) -> Iterator[None]:
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
