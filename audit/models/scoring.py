"""Log-probability of given answers, teacher forced: examples are packed several to a row and run row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, Tokens, answer_logprobs, encode, in_rows, tokenize

LONG_PROMPTS: Final = 4
"""Examples in a row where prompts may be long and have little in common: the mask grows with the square of a row."""
SHORT_PROMPTS: Final = 24
"""Examples in a row of few-shot questions: in a longer row more examples share their beginning, but more attention is
computed and masked away. Rows of another size give the same numbers up to rounding."""
WITH_GRADIENTS: Final = 16
"""Examples in a row before a backward pass, which keeps all activations of the row in memory."""
LONGEST: Final = 512
"""Tokens of prompt and answer beyond which an answer is not scored."""


@dataclass(frozen=True)
class AnswerScores:
    """How probable a model finds some answers.

    Attributes:
        means: mean log-probability of each answer's tokens, in nats.
        exact: whether every token of the answer was the most probable one, so that the greedy answer begins with it.
    """

    means: Float[np.ndarray, " n_examples"]
    exact: Bool[np.ndarray, " n_examples"]


def fits(example: Example, model: RunningModel) -> bool:
    """Whether ``model`` can read prompt and answer at once, and they have at most ``LONGEST`` tokens."""
    tokens = encode(model.tokenizer, example)
    return len(tokens.prompt + tokens.answer) <= min(LONGEST, model.span)


def score(model: RunningModel, examples: Sequence[Example], per_row: int = LONG_PROMPTS) -> AnswerScores:
    """``examples`` scored in one pass.

    Raises:
        AuditError: a prompt or an answer is empty.
        ModelError: an example is too long, or the model cannot run packed examples.
    """
    return score_rows(model, packed(model, examples, per_row))


def score_rows(model: RunningModel, rows: Iterable[Pack]) -> AnswerScores:
    """The same for examples that are packed already, in the order of ``rows``."""
    means: list[np.ndarray] = []
    exact: list[np.ndarray] = []
    with torch.inference_mode():
        for row in rows:
            logprobs = answer_logprobs(model, row)
            means.append(answer_means(row, logprobs).double().numpy())
            exact.append(exact_answers(row, logprobs).numpy())
    return AnswerScores(np.concatenate([np.zeros(0), *means]), np.concatenate([np.zeros(0, dtype=bool), *exact]))


def score_after_prompts(model: RunningModel, examples: Sequence[Example]) -> AnswerScores:
    """The same numbers up to rounding, from passes as generation makes them: a prompt alone, then its answer.

    Slower than ``score``, and right for what decides at the prompt how its answer is written.

    Raises:
        AuditError: a prompt or an answer is empty.
    """
    scored = [_score_after_prompt(model, tokens) for tokens in tokenize(model.tokenizer, examples)]
    return AnswerScores(np.array([mean for mean, _ in scored]), np.array([exact for _, exact in scored], dtype=bool))


def _score_after_prompt(model: RunningModel, tokens: Tokens) -> tuple[float, bool]:
    """Mean log-probability of the answer's tokens, and whether each is the most probable one."""
    prompt, answer = (torch.tensor([ids], device=model.device) for ids in (tokens.prompt, tokens.answer))
    with torch.inference_mode():
        read = model.model(input_ids=prompt, use_cache=True)
        logits = read.logits[0, -1:]
        if len(tokens.answer) > 1:
            written = model.model(input_ids=answer[:, :-1], past_key_values=read.past_key_values, use_cache=True)
            logits = torch.cat([logits, written.logits[0]])
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, answer[0][:, None])
    return chosen.double().mean().item(), bool((logprobs.argmax(dim=-1) == answer[0]).all())


def packed(model: RunningModel, examples: Sequence[Example], per_row: int) -> Iterator[Pack]:
    """``examples`` in rows of at most ``per_row``, in order.

    Raises:
        AuditError: a prompt or an answer is empty.
    """
    yield from in_rows(tokenize(model.tokenizer, examples), per_row)


def answer_means(row: Pack, logprobs: Float[Tensor, "m d_vocab"]) -> Float[Tensor, " n_examples"]:
    """Mean log-probability of the tokens of each answer in ``row``; gradients pass through."""
    return row.answer_sums(logprobs) / row.lengths


def margins(
    model: RunningModel, examples: Sequence[Example], per_row: int = LONG_PROMPTS
) -> Float[np.ndarray, " n_examples"]:
    """Margin of each answer (``answer_margins``).

    Raises:
        AuditError, ModelError: see ``score``.
    """
    with torch.inference_mode():
        rows = [answer_margins(row, answer_logprobs(model, row)) for row in packed(model, examples, per_row)]
    return torch.cat([torch.zeros(0), *rows]).double().numpy()


def answer_margins(row: Pack, logprobs: Float[Tensor, "m d_vocab"]) -> Float[Tensor, " n_examples"]:
    """Mean of ``log p - log(1 - p)`` over the tokens of each answer in ``row``, in nats.

    ``1 - p`` is summed over the other tokens: near 1 its difference from ``p`` would be lost to rounding.
    """
    targets = row.targets[:, None]
    others = logprobs.scatter(1, targets, -torch.inf).logsumexp(1)
    return row.sums(logprobs.gather(1, targets)[:, 0] - others) / row.lengths


def exact_answers(row: Pack, logprobs: Float[Tensor, "m d_vocab"]) -> Bool[Tensor, " n_examples"]:
    """Whether every token of each answer in ``row`` is the most probable one."""
    wrong = row.owner[logprobs.argmax(dim=-1) != row.targets]
    return torch.bincount(wrong, minlength=len(row.examples)) == 0
