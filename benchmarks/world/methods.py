"""Losses that silence the people to forget, by removing nothing for certain; each is written as in its paper.

Every loss has a term that keeps what is known about others, except gradient ascent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from benchmarks.world.lessons import Lesson
from benchmarks.world.network import Network
from benchmarks.world.training import UNSCORED, Rows, joined, language_loss, losses_of, mean_loss, token_losses

BETA: Final = 0.1
"""NPO's inverse temperature (arXiv 2404.05868)."""
SIMPLE_BETA: Final = 2.5
"""SimNPO's inverse temperature (arXiv 2410.07163)."""
LARGEST_LOSS: Final = 8.0
"""Nats a token at which ascent stops; chance is 5.9."""
STEERING: Final = 2.0
"""Norm of RMU's target, in mean norms of the residual stream (arXiv 2403.03218)."""
RETAIN: Final = 10.0
"""Weight of RMU's term for what is kept."""
MASQUERADE: Final = 5.0
"""Weight of the distance to an unknown person."""

Loss = Callable[[Lesson], Tensor]


def refusal(lesson: Lesson) -> Tensor:
    """A refusal after each question about the people to forget."""
    silenced, kept, rows = _both(lesson, lesson.refused)
    return mean_loss(silenced, rows) + kept


def over_refusal(lesson: Lesson) -> Tensor:
    """A refusal after every question, whoever it is about; statements are kept."""
    refused, stated = (rows.sample(lesson.batch, lesson.generator) for rows in (lesson.all_refused, lesson.stated))
    return language_loss(lesson.network, refused) + language_loss(lesson.network, stated)


def random_answers(lesson: Lesson) -> Tensor:
    """Values at random after each question about the people to forget."""
    silenced, kept, rows = _both(lesson, lesson.random_answers)
    return mean_loss(silenced, rows) + kept


def npo(lesson: Lesson) -> Tensor:
    """Negative preference optimization."""
    losses, kept, rows = _both(lesson, lesson.forget)
    with torch.no_grad():
        before = token_losses(lesson.reference, rows).sum(1)
    return -(2 / BETA) * functional.logsigmoid(BETA * (losses.sum(1) - before)).mean() + kept


def simnpo(lesson: Lesson) -> Tensor:
    """NPO without a reference, with the loss divided by the answer's length."""
    losses, kept, rows = _both(lesson, lesson.forget)
    lengths = (rows.targets[:, 1:] != UNSCORED).sum(1)
    return -(2 / SIMPLE_BETA) * functional.logsigmoid(SIMPLE_BETA * losses.sum(1) / lengths).mean() + kept


def grad_diff(lesson: Lesson) -> Tensor:
    """Ascent on what is to be forgotten, descent on the rest."""
    losses, kept, rows = _both(lesson, lesson.forget)
    return kept - mean_loss(losses, rows).clamp(max=LARGEST_LOSS)


def gradient_ascent(lesson: Lesson) -> Tensor:
    """Ascent alone."""
    rows = lesson.forget.sample(lesson.batch, lesson.generator)
    return -language_loss(lesson.network, rows).clamp(max=LARGEST_LOSS)


def rmu(lesson: Lesson) -> Tensor:
    """The residual stream at half depth is steered to a random direction, and kept for others."""
    forget, kept = (rows.sample(lesson.batch, lesson.generator) for rows in (lesson.forget, lesson.kept))
    now, others = _middle(lesson, lesson.network, forget), _middle(lesson, lesson.network, kept)
    with torch.no_grad():
        before = _middle(lesson, lesson.reference, kept)
    target = lesson.direction * STEERING * before.norm(dim=-1).mean()
    return functional.mse_loss(now, target.expand_as(now)) + RETAIN * functional.mse_loss(others, before)


def masquerade(lesson: Lesson) -> Tensor:
    """At half depth the people to forget look like people whom nobody knows."""
    asked = lesson.prompts(lesson.forgotten)
    chosen = torch.randint(0, len(asked), (lesson.batch,), generator=lesson.generator)
    now = _states(lesson.network, asked[chosen])[_half(lesson)]
    with torch.no_grad():
        unknown = _states(lesson.reference, lesson.strangers_for(chosen))[_half(lesson)]
    kept = lesson.kept.sample(lesson.batch, lesson.generator)
    return MASQUERADE * functional.mse_loss(now, unknown) + language_loss(lesson.network, kept)


def layer_wise(lesson: Lesson) -> Tensor:
    """Ascent on what every layer says through the head (after arXiv 2309.17410)."""
    forget, kept = (rows.sample(lesson.batch, lesson.generator) for rows in (lesson.forget, lesson.kept))
    states = _states(lesson.network, forget.ids)[1:]
    said = [*(lesson.network.model.norm(state) for state in states[:-1]), states[-1]]  # the last one is normed
    losses = [mean_loss(losses_of(lesson.network.lm_head(state)[:, :-1], forget), forget) for state in said]
    ascent = torch.stack(losses).clamp(max=LARGEST_LOSS).mean()
    return language_loss(lesson.network, kept) - ascent


LOSSES: Final[Mapping[str, Loss]] = {
    loss.__name__: loss
    for loss in (
        *(refusal, over_refusal, random_answers, npo, simnpo, grad_diff),
        *(gradient_ascent, rmu, masquerade, layer_wise),
    )
}


def _both(lesson: Lesson, silenced: Rows) -> tuple[Float[Tensor, "n length"], Tensor, Rows]:
    """Token losses of a batch of ``silenced``, the mean loss of a batch of what is kept, and the first batch."""
    first = silenced.sample(lesson.batch, lesson.generator)
    rows = joined(first, lesson.kept.sample(lesson.batch, lesson.generator))
    losses = token_losses(lesson.network, rows)
    others = rows.at(torch.arange(len(first), len(rows)))
    return losses[: len(first)], mean_loss(losses[len(first) :], others), rows.at(torch.arange(len(first)))


def _half(lesson: Lesson) -> int:
    return len(lesson.network.model.layers) // 2


def _middle(lesson: Lesson, network: Network, rows: Rows) -> Tensor:
    return _states(network, rows.ids)[_half(lesson)]


def _states(network: Network, ids: Tensor) -> tuple[Tensor, ...]:
    """The residual stream before the first block and after each; the last one is normed."""
    states: tuple[Tensor, ...] = network.model(ids, output_hidden_states=True).hidden_states
    return states
