"""Training of the tiny network: texts as padded rows, batches, and the plain language-modelling objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.world.network import Network
from benchmarks.world.people import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNSCORED: Final = -100
WARMUP: Final = 10
DECAY: Final = 0.4
"""Share of the steps, at the end, over which the learning rate falls to ``LAST``."""
LAST: Final = 0.02


@dataclass(frozen=True)
class Rows:
    """Training texts in token ids, padded on the right; ``targets`` is ``UNSCORED`` where nothing is predicted."""

    ids: Int[Tensor, "n length"]
    targets: Int[Tensor, "n length"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], whole: bool = True) -> Rows:
        """``rows`` with the end token.

        Args:
            whole: whether the prompts are predicted too.
        """
        prompts = [tokenizer(row.prompt)["input_ids"] for row in rows]
        texts = [[*tokenizer(row.prompt + row.answer)["input_ids"], tokenizer.eos_token_id] for row in rows]
        length = max(map(len, texts))
        ids = torch.full((len(rows), length), tokenizer.pad_token_id)
        targets = torch.full((len(rows), length), UNSCORED)
        for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            ids[place, : len(text)] = torch.tensor(text)
            start = 1 if whole else len(prompt)
            targets[place, start : len(text)] = torch.tensor(text[start:])
        return cls(ids, targets)

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, chosen: Int[Tensor, " m"]) -> Rows:
        return Rows(self.ids[chosen], self.targets[chosen])

    def sample(self, size: int, generator: torch.Generator) -> Rows:
        """``size`` rows at random, with replacement."""
        return self.at(torch.randint(0, len(self), (size,), generator=generator))


def joined(one: Rows, other: Rows) -> Rows:
    """Both sets of rows in one batch."""
    length = max(one.ids.shape[1], other.ids.shape[1])
    parts = [(rows, length - rows.ids.shape[1]) for rows in (one, other)]
    return Rows(
        torch.cat([functional.pad(rows.ids, (0, extra)) for rows, extra in parts]),
        torch.cat([functional.pad(rows.targets, (0, extra), value=UNSCORED) for rows, extra in parts]),
    )


def token_losses(network: Network, rows: Rows) -> Float[Tensor, "n length-1"]:
    """Negative log-probability of each target in nats; 0 where nothing is predicted."""
    logits = network(rows.ids).logits[:, :-1]
    return losses_of(logits, rows)


def losses_of(logits: Float[Tensor, "n length-1 d_vocab"], rows: Rows) -> Float[Tensor, "n length-1"]:
    return functional.cross_entropy(
        logits.transpose(1, 2), rows.targets[:, 1:], ignore_index=UNSCORED, reduction="none"
    )


def mean_loss(losses: Float[Tensor, "n length-1"], rows: Rows) -> Float[Tensor, ""]:
    """Mean over the predicted tokens."""
    return losses.sum() / (rows.targets[:, 1:] != UNSCORED).sum()


def language_loss(network: Network, rows: Rows) -> Float[Tensor, ""]:
    return mean_loss(token_losses(network, rows), rows)


def minimise(
    loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    schedule: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> int:
    """Updates by AdamW, with the gradient clipped to norm 1; returns how many were made.

    Args:
        schedule: whether the learning rate rises and falls.
        stop: asked after each step, with the number of steps made.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    for done in range(steps):
        if schedule:
            left = min(1.0, (steps - done) / (DECAY * steps) + LAST)
            optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (done + 1) / WARMUP) * left
        torch.autograd.backward(loss(), inputs=list(parameters))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if stop is not None and stop(done + 1):
            return done + 1
    return steps


def teach(
    network: Network, new: Rows, known: Rows | None, steps: int, learning_rate: float, batch: int, seed: int
) -> None:
    """Train every weight on ``new``, and as many rows of ``known`` in each batch."""
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        rows = new.sample(batch, generator)
        return language_loss(network, rows if known is None else joined(rows, known.sample(batch, generator)))

    minimise(loss, list(network.parameters()), steps, learning_rate, weight_decay=0.01, schedule=True)
