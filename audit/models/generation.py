"""Greedy answers, batched, that stop where the answer ends.

Why not transformers' ``generate``: the prompts of an audit share their few-shot examples, which are most of their
tokens, and their answers differ in length. Here the shared prefix is run once for all batches, the head is applied at
the last position of each prompt alone, and a row leaves the batch when its answer ends. On 60 prompts the answers are
equal and ``generate`` takes 2.3 times as long (``benchmarks/generation.py``); a test holds the answers of every family
to those of ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from audit.models.forward import padded, prefix_cache, reading_head_at, shared_prefix
from audit.models.loading import KeyValueCache, RunningModel, repeated
from audit.progress import SILENT, Progress

MAX_NEW_TOKENS = 24
"""Answers of the few-shot form are a few words; a longer text is not an answer, and is cut here."""
SENTENCE = 48
"""Tokens of an answer in a sentence: the longest of SmolLM2's to the library's open questions has 32."""


def is_over(text: str) -> bool:
    """Whether a short answer has ended: ``concepts.prompts.cut`` would cut here already."""
    return "\n" in text.lstrip() or "\r" in text.lstrip() or "Question:" in text


def greedy(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    progress: Progress = SILENT,
    ended: Callable[[str], bool] = is_over,
) -> list[tuple[int, ...]]:
    """The tokens that the model writes after each prompt, the most probable one each time.

    A row ends where ``ended`` is true of its text so far, at an end token (not returned) or after ``max_new_tokens``.
    The same tokens as generating one prompt at a time, up to ties within rounding.
    """
    shared = shared_prefix([ids[:-1] for ids in prompts])
    longest = max((len(ids) for ids in prompts), default=0) + max_new_tokens
    if model.window is not None and longest > model.window:
        batch_size = 1  # padding would take up places of the window
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    with torch.inference_mode():
        cache = prefix_cache(model, shared)
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            rest = [prompts[index][len(shared) :] for index in indices]
            written = _answer(model, rest, repeated(cache, len(rest)), len(shared), max_new_tokens, ended)
            for index, tokens in zip(indices, written, strict=True):
                answers[index] = tokens
            progress.step("Writing answers", begin + len(indices), len(order))
    return answers


def _answer(
    model: RunningModel,
    sequences: Sequence[tuple[int, ...]],
    cache: KeyValueCache,
    start: int,
    max_new_tokens: int,
    ended: Callable[[str], bool],
) -> list[tuple[int, ...]]:
    """One batch: a pass over the prompts, then one token at a time for the rows that have not ended."""
    arguments = padded(model, sequences, start)
    position = torch.tensor([start + len(ids) for ids in sequences])  # of the next token
    last = torch.tensor([len(ids) - 1 for ids in sequences])
    rows = list(range(len(sequences)))
    written: list[list[int]] = [[] for _ in sequences]
    ends = _end_ids(model)
    for _ in range(max_new_tokens):
        with reading_head_at(model, torch.arange(len(rows)), last):
            logits = model.model(**arguments, past_key_values=cache, use_cache=True).logits[0]
        chosen = logits.argmax(dim=-1).tolist()
        for row, token in zip(rows, chosen, strict=True):
            if token not in ends:
                written[row].append(token)
        going = [
            number
            for number, (row, token) in enumerate(zip(rows, chosen, strict=True))
            if token not in ends and not ended(model.tokenizer.decode(written[row]))
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


def _end_ids(model: RunningModel) -> frozenset[int]:
    """The end tokens that the tokenizer and the config name."""
    named = (model.tokenizer.eos_token_id, model.model.config.eos_token_id)
    ids = (entry for value in named for entry in (value if isinstance(value, list) else [value]))
    return frozenset(entry for entry in ids if entry is not None)
