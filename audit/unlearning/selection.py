"""The examples that are hardest to forget: the worst-case forget set (Fan et al. 2024, arXiv 2403.07362).

``min_w sum_i w_i l_i(theta(w))`` with ``0 <= w_i <= 1`` and ``sum_i w_i = m``: those that a model still answers after
it was made to forget them. ``theta(w)`` is the model after some steps of sign descent on
``-sum_i w_i l_i / m + retain_weight * retain``, with the mean loss of what is retained. The derivative of a sign is 0,
so the gradient in ``w`` is ``l`` alone. ``l_i`` is the mean loss of the answer's tokens: a sum would prefer short ones.

In the paper the model is trained on everything but the chosen examples. A few steps of that leave every loss as it was
where the model knows all answers; so here the loss of the chosen ones is raised, and the others are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Tokens, answer_logprobs, in_rows, pack
from audit.models.scoring import answer_means, score_rows
from audit.progress import SILENT, Progress
from audit.unlearning.fine_tuning import preserved
from audit.unlearning.objective import trained
from audit.unlearning.training import TrainingSettings, batches_of_both

RATE: Final = 0.1
"""By how much a weight falls for each nat of loss in a round."""
HALVINGS: Final = 60
"""Steps of bisection, after which the interval is below the rounding of its ends."""


@dataclass(frozen=True)
class Ranking:
    """How hard the examples are to forget.

    Attributes:
        order: their numbers, hardest first.
        losses: mean loss of each answer's tokens in the last unlearned model, in nats.
    """

    order: tuple[int, ...]
    losses: Float[np.ndarray, " n"]


def hardest_first(
    model: RunningModel,
    examples: Sequence[Tokens],
    retain: Sequence[Tokens],
    m: int,
    settings: TrainingSettings,
    rounds: int = 5,
    steps: int = 16,
    progress: Progress = SILENT,
) -> Ranking:
    """Rank ``examples`` by the weight that they reach if ``m`` of them are chosen; ``model`` stays as it is.

    Args:
        settings: what is trained, learning rate, batches, retain weight and seed of the unlearning in each round.
        rounds: how often the model is made to forget and the weights are changed.
        steps: updates in each of them.

    Raises:
        AuditError: there are not more than ``m`` examples.
        ModelError: see ``packing.answer_logprobs``.
    """
    if m >= len(examples):
        raise AuditError(
            f"{m} of {len(examples)} examples to forget cannot be the hardest.",
            hint="Give more examples, or choose fewer.",
        )
    rows = [*in_rows(examples, settings.forget_batch + settings.retain_batch)]
    weights = reached = np.full(len(examples), m / len(examples))
    for number in range(rounds):
        progress.step("Finding what is hardest to forget", number, rounds)
        with preserved(model):
            _forget(model, examples, retain, torch.from_numpy(weights / m).float(), settings, steps)
            losses = -score_rows(model, rows).means
        reached = weights - RATE * losses
        weights = box_and_sum(reached, m)
    return Ranking(tuple(np.argsort(-reached, kind="stable").tolist()), losses)


def box_and_sum(values: Float[np.ndarray, " n"], total: float) -> Float[np.ndarray, " n"]:
    """The nearest point with entries between 0 and 1 that add up to ``total``, at most ``n``, by bisection.

    It is ``clip(values - t, 0, 1)`` for the ``t`` at which the sum is right.
    """
    low, high = values.min() - 1, values.max()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = np.clip(values - middle, 0, 1).sum() > total
        low, high = (middle, high) if too_much else (low, middle)
    projected: np.ndarray = np.clip(values - (low + high) / 2, 0, 1)
    return projected


def _forget(
    model: RunningModel,
    examples: Sequence[Tokens],
    retain: Sequence[Tokens],
    weights: Float[Tensor, " n"],
    settings: TrainingSettings,
    steps: int,
) -> None:
    """Some steps of sign descent, in place; ``weights`` add up to 1."""
    tokens = [*examples, *retain]
    generator = torch.Generator().manual_seed(settings.seed)
    batches = batches_of_both(len(examples), len(retain), settings, generator)
    with trained(model, settings) as (parameters, _):
        for chosen, kept in islice(batches, steps):
            row = pack([(index, tokens[index]) for index in (*chosen, *kept)])
            losses = -answer_means(row, answer_logprobs(model, row))
            loss = -(weights[chosen] * losses[: len(chosen)]).sum() * len(examples) / len(chosen)
            if kept:
                loss = loss + settings.retain_weight * losses[len(chosen) :].mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:  # an expert to which no token was routed
                        parameter.sub_(settings.learning_rate * gradient.sign())
