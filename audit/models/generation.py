"""Greedy and drawn answers, batched, that stop where the answer ends.

Why not transformers' ``generate``: the prompts of an audit share their few-shot examples, which are most of their
tokens, and their answers differ in length. Here the shared prefix is run once for all batches, the head is applied at
the last position of each prompt alone, and a row leaves the batch when its answer ends. On 60 prompts the answers are
equal and ``generate`` takes 2.3 times as long (``benchmarks/generation.py``); a test holds the answers of every family
to those of ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.models.forward import Batch, States, finite, padded, prefix_cache, reading_head_at, shared_prefix, states_at
from audit.models.loading import KeyValueCache, RunningModel, repeated
from audit.progress import SILENT, Progress

MAX_NEW_TOKENS = 24
"""Answers of the few-shot form are a few words; a longer text is not an answer, and is cut here."""
TOKENS_AT_ONCE = 4096
"""Answers are written in larger batches than ``batch_size`` as long as their texts have no more tokens than this: a
step of 48 rows takes little longer than one of 16, and their keys and values need little memory."""
SENTENCE = 48
"""Tokens of an answer in a sentence: the longest of SmolLM2's to the library's open questions has 32."""


def is_over(text: str) -> bool:
    """Whether a short answer has ended: ``concepts.prompts.cut`` would cut here already."""
    return "\n" in text.lstrip() or "\r" in text.lstrip() or "Question:" in text


def greedy(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int | Sequence[int] = MAX_NEW_TOKENS,
    batch_size: int = 16,
    progress: Progress = SILENT,
    ended: Callable[[str], bool] = is_over,
    take: Take | None = None,
) -> list[tuple[int, ...]]:
    """The tokens that the model writes after each prompt, the most probable one each time.

    A row ends where ``ended`` is true of its text so far, at an end token (not returned) or after ``max_new_tokens``.
    The same tokens as generating one prompt at a time, up to ties within rounding.

    Args:
        max_new_tokens: of every answer, or of each.
        take: receives what the pass over the prompts reads at the last token of each.

    Raises:
        ModelError: with ``take``, an output of the model is not finite.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    return _continue(model, prompts, _most_probable, limits, batch_size, progress, ended, take)


def sampled(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    samples: int,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    progress: Progress = SILENT,
    ended: Callable[[str], bool] = is_over,
) -> list[list[tuple[int, ...]]]:
    """For each prompt, the tokens of ``samples`` answers drawn at temperature 1; see ``greedy``.

    The random numbers are drawn beforehand, so the answers do not depend on the batch size, up to rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(prompts) * samples, max_new_tokens, generator=generator, dtype=torch.float64)

    def draw(logits: Float[Tensor, "n d_vocab"], prompts: Sequence[int], step: int) -> list[int]:
        cumulative = logits.double().cpu().softmax(dim=-1).cumsum(dim=-1)
        chosen = torch.searchsorted(cumulative, uniform[list(prompts), step, None])[:, 0]
        return chosen.clamp(max=logits.shape[-1] - 1).tolist()  # rounding may leave the last sum below 1

    repeated_prompts = [ids for ids in prompts for _ in range(samples)]
    limits = [max_new_tokens] * len(repeated_prompts)
    answers = _continue(model, repeated_prompts, draw, limits, batch_size, progress, ended)
    return [answers[begin : begin + samples] for begin in range(0, len(answers), samples)]


Choose = Callable[[Float[Tensor, "n d_vocab"], Sequence[int], int], list[int]]
"""The next token after each of some prompts, from its logits, the prompts' indices and the number of tokens so far."""
Take = Callable[[Batch], None]
"""Receives a batch whose ``rows`` are indices of prompts, with one position each."""


def _most_probable(logits: Float[Tensor, "n d_vocab"], prompts: Sequence[int], step: int) -> list[int]:
    return logits.argmax(dim=-1).tolist()


def _continue(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    choose: Choose,
    limits: Sequence[int],
    batch_size: int,
    progress: Progress,
    ended: Callable[[str], bool],
    take: Take | None = None,
) -> list[tuple[int, ...]]:
    """The tokens after each prompt, chosen by ``choose``."""
    shared = shared_prefix([ids[:-1] for ids in prompts])
    longest = max((len(ids) for ids in prompts), default=0) + max(limits, default=0)
    batch_size = max(batch_size, TOKENS_AT_ONCE // longest)
    if model.window is not None and longest > model.window:
        batch_size = 1  # padding would take up places of the window
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    with torch.inference_mode():
        cache = prefix_cache(model, shared)
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            rest = [prompts[index][len(shared) :] for index in indices]
            choices = _Choices(choose, indices, [limits[index] for index in indices], ended, take)
            written = _answer(model, rest, repeated(cache, len(rest)), len(shared), choices)
            for index, tokens in zip(indices, written, strict=True):
                answers[index] = tokens
            progress.step("Writing answers", begin + len(indices), len(order))
    return answers


@dataclass(frozen=True)
class _Choices:
    """How the tokens of one batch are chosen; ``prompts`` are the indices of its rows, ``limits`` their most tokens."""

    choose: Choose
    prompts: Sequence[int]
    limits: Sequence[int]
    ended: Callable[[str], bool]
    take: Take | None = None

    def hand_over(self, states: States, logits: Float[Tensor, "n d_vocab"]) -> None:
        """Hand what the pass over the prompts read to ``take``."""
        if self.take is not None:
            self.take(states.batch(self.prompts, logits))


def _answer(
    model: RunningModel,
    sequences: Sequence[tuple[int, ...]],
    cache: KeyValueCache,
    start: int,
    choices: _Choices,
) -> list[tuple[int, ...]]:
    """One batch: a pass over the prompts, then one token at a time for the rows that have not ended."""
    arguments = padded(model, sequences, start)
    position = torch.tensor([start + len(ids) for ids in sequences])  # of the next token
    last = torch.tensor([len(ids) - 1 for ids in sequences])
    rows = list(range(len(sequences)))
    written: list[list[int]] = [[] for _ in sequences]
    ends = _end_ids(model)
    for step in range(max(choices.limits)):
        logits = _next_logits(model, arguments, cache, last, choices.hand_over if step == 0 and choices.take else None)
        chosen = choices.choose(logits, [choices.prompts[row] for row in rows], step)
        for row, token in zip(rows, chosen, strict=True):
            if token not in ends:
                written[row].append(token)
        going = [
            number
            for number, (row, token) in enumerate(zip(rows, chosen, strict=True))
            if token not in ends
            and len(written[row]) < choices.limits[row]
            and not choices.ended(model.tokenizer.decode(written[row]))
        ]
        if not going:
            break
        if len(going) < len(rows):  # copying the cache costs as much as the step itself
            kept = torch.tensor(going)
            rows = [rows[number] for number in going]
            chosen = [chosen[number] for number in going]
            cache.batch_select_indices(kept.to(model.device))
            arguments["attention_mask"] = arguments["attention_mask"][kept]
            position = position[kept]
        mask = arguments["attention_mask"]
        arguments = {
            "input_ids": torch.tensor(chosen, device=model.device)[:, None],
            "attention_mask": torch.cat([mask, mask.new_ones(len(going), 1)], dim=1),
            "position_ids": position.to(model.device)[:, None],
        }
        position = position + 1
        last = torch.zeros(len(going), dtype=torch.long)
    return [tuple(tokens) for tokens in written]


def _next_logits(
    model: RunningModel,
    arguments: dict[str, Tensor],
    cache: KeyValueCache,
    last: Int[Tensor, " n"],
    take: Callable[[States, Float[Tensor, "n d_vocab"]], None] | None,
) -> Float[Tensor, "n d_vocab"]:
    """The logits at the last position of each row; ``take`` receives what else the pass read there."""
    reading = nullcontext() if take is None else states_at(model, last)
    with reading_head_at(model, torch.arange(len(last)), last), reading as states:
        logits: Tensor = model.model(**arguments, past_key_values=cache, use_cache=True).logits[0]
    if take is not None and states is not None:
        take(states, finite(logits.float()))
    return logits


def _end_ids(model: RunningModel) -> frozenset[int]:
    """The end tokens that the tokenizer and the config name."""
    named = (model.tokenizer.eos_token_id, model.model.config.eos_token_id)
    ids = (entry for value in named for entry in (value if isinstance(value, list) else [value]))
    return frozenset(entry for entry in ids if entry is not None)
