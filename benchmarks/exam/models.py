"""What every rival metric reads: facts as token ids, and one pass of a network over them.

Networks are Llamas as transformers builds them, in either tier of the exam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

Ids = tuple[int, ...]
BATCH: Final = 256


@dataclass(frozen=True)
class Item:
    """A fact in token ids.

    Attributes:
        prompt: the question as it is asked.
        answer: the true answer, without an end token.
        others: other answers of its type.
        held_out: the question in a wording that no model was trained on.
    """

    prompt: Ids
    answer: Ids
    others: tuple[Ids, ...]
    held_out: Ids


@dataclass(frozen=True)
class Facts:
    """What is asked of every model.

    Attributes:
        forget: the facts to forget.
        unknown: facts of the same types that no model was ever taught.
        neutral: texts about anything else.
    """

    forget: tuple[Item, ...]
    unknown: tuple[Item, ...]
    neutral: tuple[Ids, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A network whose passes are batched; equal passes are made once.

    Attributes:
        rows: of a pass.
    """

    network: Any
    rows: int = BATCH
    _read: dict[tuple[tuple[Ids, Ids], ...], list[Tensor]] = field(default_factory=dict, repr=False)

    @property
    def n_layers(self) -> int:
        return len(self.network.model.layers)

    def logprobs(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Float[Tensor, "n_answer d_vocab"]]:
        """For each prompt with its answer the distributions that predict the answer's tokens, in nats."""
        key = tuple(rows)
        if key not in self._read:
            found: list[Tensor] = []
            for batch in self._batches(rows):
                with torch.no_grad():
                    streams = self.network.model(_padded(batch)).last_hidden_state
                    found += [
                        self.network.lm_head(streams[place, len(prompt) - 1 : len(prompt) + len(answer) - 1])
                        .float()
                        .log_softmax(-1)
                        for place, (prompt, answer) in enumerate(batch)
                    ]
            self._read[key] = found
        return self._read[key]

    def token_logprobs(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Float[Tensor, " n_answer"]]:
        """The answers' own tokens, in nats."""
        return [
            distributions.gather(1, torch.tensor(answer)[:, None])[:, 0]
            for distributions, (_, answer) in zip(self.logprobs(rows), rows, strict=True)
        ]

    def hits(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
        """Whether each token of the answers is the most probable one after those before it."""
        return [
            distributions.argmax(-1) == torch.tensor(answer)
            for distributions, (_, answer) in zip(self.logprobs(rows), rows, strict=True)
        ]

    def answer_means(self, rows: Sequence[tuple[Ids, Ids]]) -> Float[Tensor, " n"]:
        """Mean log-probability of the answers' tokens."""
        return torch.stack([values.mean() for values in self.token_logprobs(rows)])

    def streams(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Float[Tensor, "n_layers n_answer d_model"]]:
        """The residual stream after each block where the answers' tokens are predicted; the last one is not normed."""
        found: list[Tensor] = []
        for batch in self._batches(rows):
            with torch.no_grad(), _outputs(self.network) as kept:
                self.network(_padded(batch))
            stacked = torch.stack(kept)
            found += [
                stacked[:, place, len(prompt) - 1 : len(prompt) + len(answer) - 1].clone()
                for place, (prompt, answer) in enumerate(batch)
            ]
        return found

    def read_out(self, streams: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Log-probabilities that the final norm and the head give to these streams."""
        with torch.no_grad():
            logits: Tensor = self.network.lm_head(self.network.model.norm(streams))
        return logits.float().log_softmax(-1)

    def _batches(self, rows: Sequence[tuple[Ids, Ids]]) -> Iterator[Sequence[tuple[Ids, Ids]]]:
        for begin in range(0, len(rows), self.rows):
            yield rows[begin : begin + self.rows]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to be scored, beside the base and a model that never knew, which is the retained one of the literature.

    Attributes:
        reference: ``None`` for metrics that need none.
    """

    audited: Network
    base: Network
    reference: Network
    facts: Facts


def asked(items: Sequence[Item]) -> list[tuple[Ids, Ids]]:
    """Each question with its true answer."""
    return [(item.prompt, item.answer) for item in items]


def _padded(rows: Sequence[tuple[Ids, Ids]]) -> Tensor:
    """Prompts with their answers, padded on the right, where a causal model does not look."""
    texts = [(*prompt, *answer) for prompt, answer in rows]
    length = max(map(len, texts))
    return torch.tensor([[*text, *([0] * (length - len(text)))] for text in texts])


@contextmanager
def _outputs(network: Any) -> Iterator[list[Tensor]]:
    """The outputs of the blocks of the passes inside the block."""
    kept: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: kept.append(first(output))) for layer in network.model.layers
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def first(output: Any) -> Tensor:
    """The stream that a block gives, which some versions of transformers wrap in a tuple."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream
