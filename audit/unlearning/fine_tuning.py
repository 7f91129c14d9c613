"""Plain fine-tuning on questions with answers: relearning, the refusal twin and benign controls.

Training is in place. ``preserved`` keeps a copy of the weights and puts them back, so one model is in memory with one
copy and the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_loss, pack, tokenize
from audit.unlearning.training import shuffled, trainable

WARMUP = 3
"""Updates over which the learning rate rises."""
LARGEST_NORM = 1.0
"""Norm to which the gradient is clipped."""


@dataclass(frozen=True)
class FineTuning:
    """Settings of a fine-tuning run.

    Attributes:
        learning_rate: of AdamW, without weight decay.
        batch: examples in each step.
        seed: of the order of examples.
        ends: whether the model also learns that the text ends after each answer, where its tokenizer has an end token.
    """

    learning_rate: float
    batch: int = 16
    seed: int = 0
    ends: bool = False


@contextmanager
def preserved(model: RunningModel, parameters: Iterable[nn.Parameter] | None = None) -> Iterator[list[Tensor]]:
    """Let weights of ``model`` be changed inside the block, and restore them at its end, also after an error.

    Args:
        parameters: those that may be changed; all by default.

    Yields:
        A copy of each of them.
    """
    chosen = list(model.model.parameters() if parameters is None else parameters)
    copies = [parameter.detach().clone() for parameter in chosen]
    try:
        yield copies
    finally:
        with torch.no_grad():
            for parameter, copy in zip(chosen, copies, strict=True):
                parameter.copy_(copy)


def fine_tune(
    model: RunningModel,
    examples: Sequence[Example],
    doses: Sequence[int],
    settings: FineTuning,
    parameters: Sequence[nn.Parameter] | None = None,
    losses: list[float] | None = None,
) -> Iterator[int]:
    """Minimise the mean loss of the answers' tokens; yields the number of steps done at each of ``doses``, ascending.

    Args:
        parameters: those to train; all by default.
        losses: gets the loss of each step's batch, before the step.

    Raises:
        AuditError: no example, or one with an empty prompt or answer.
        ModelError: the loss is not finite, or the model cannot be trained on packed examples.
    """
    if not examples:
        raise AuditError("there are no examples to train on.")
    tokens = tokenize(model.tokenizer, examples)
    if settings.ends and (end := model.tokenizer.eos_token_id) is not None:
        tokens = [replace(each, answer=(*each.answer, end)) for each in tokens]
    generator = torch.Generator().manual_seed(settings.seed)
    batches = shuffled(len(tokens), settings.batch, generator)
    trained = list(model.model.parameters()) if parameters is None else list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    done = 0
    try:
        for dose in doses:
            with trainable(model.model, every=True):
                while done < dose:
                    optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (done + 1) / WARMUP)
                    row = pack([(index, tokens[index]) for index in next(batches)])
                    loss = _update(model, row, trained, optimizer, done)
                    if losses is not None:
                        losses.append(loss)
                    done += 1
            yield done
    finally:
        optimizer.zero_grad()


def _update(
    model: RunningModel, row: Pack, trained: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, done: int
) -> float:
    """One step; returns the loss before it."""
    loss = answer_loss(model, row)
    if not torch.isfinite(loss):
        raise ModelError(f"the loss is {loss.item()} at step {done}.", hint="Lower the learning rate.")
    torch.autograd.backward(loss, inputs=list(trained))
    torch.nn.utils.clip_grad_norm_(trained, LARGEST_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def trained_tokens(examples: Sequence[Example], model: RunningModel | None, batch: int) -> float:
    """Mean number of tokens of a step's examples, packed; characters / 4 where there is no model to tokenize with."""
    if not examples:
        return 0.0
    size = sum(len(example.prompt) + len(example.answer) for example in examples) / 4
    if model is not None:
        size = sum(len(each.inputs) for each in tokenize(model.tokenizer, examples))
    return min(batch, len(examples)) * size / len(examples)
