"""Greedy and drawn answers, batched, that stop where the answer ends.

Why not transformers' ``generate``: the prompts of an audit share their few-shot examples, which are most of their
tokens, and their answers differ in length. Here a shared prefix is run once for all batches, the prompts are continued
from it as a tree, the head is applied at the last position of each prompt alone, and a row leaves the batch when its
answer ends. On 60 prompts the answers are equal and ``generate`` takes 2.7 times as long
(``benchmarks/generation.py``); a test holds the answers of every family to those of ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.models.forward import (
    Batch,
    Layout,
    Prefixes,
    PrefixGroup,
    Row,
    finite,
    parts,
    prefix_groups,
    reading_head_at,
    states_at,
)
from audit.models.key_value_cache import KeyValueCache, joined, n_bytes, repeated
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress

MAX_NEW_TOKENS = 24
"""Answers of the few-shot form are a few words; a longer text is not an answer, and is cut here."""
CACHE_BYTES = 2**29
"""Answers are written in larger batches than ``batch_size`` as long as their keys and values need no more memory than
this: a step of 100 rows takes only half as long again as one of 32."""
FEW = 0.75
"""Share of a batch's rows that go on at which the others are dropped. Dropping some copies the keys and values of the
rest, which takes longer than to run the others too."""
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
    ended: Ended | Sequence[Ended] = is_over,
    reader: Reader | None = None,
) -> list[tuple[int, ...]]:
    """The tokens that the model writes after each prompt, the most probable one each time.

    A row ends where ``ended`` is true of its text so far, at an end token (not returned) or after ``max_new_tokens``.
    The same tokens as generating one prompt at a time, up to ties within rounding.

    Args:
        max_new_tokens, ended: of every answer, or of each.
        reader: what is read in the passes over the prompts.

    Raises:
        ModelError: with ``reader``, an output of the model is not finite.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    ends = [ended] * len(prompts) if callable(ended) else ended
    return _continue(model, prompts, _Choices(_most_probable, limits, ends, reader), batch_size, progress)


def sampled(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    samples: int,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    progress: Progress = SILENT,
    ended: Ended = is_over,
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
    choices = _Choices(draw, [max_new_tokens] * len(repeated_prompts), [ended] * len(repeated_prompts))
    answers = _continue(model, repeated_prompts, choices, batch_size, progress)
    return [answers[begin : begin + samples] for begin in range(0, len(answers), samples)]


Ended = Callable[[str], bool]
"""Whether an answer has ended, from its text so far."""
Choose = Callable[[Float[Tensor, "n d_vocab"], Sequence[int], int], list[int]]
"""The next token after each of some prompts, from its logits, the prompts' indices and the number of tokens so far."""


class Reader(Protocol):
    """Rows that are read in the passes over the prompts with which they begin."""

    def prefixes(self, model: RunningModel, /) -> Prefixes:
        """Those that were run on this model already, to which further ones are added."""

    def unread(self, prompt: tuple[int, ...], /) -> Sequence[Row]:
        """The rows that begin with ``prompt``, their last prompt token being its last."""

    def take(self, rows: Sequence[Row], batch: Batch, /) -> None:
        """Receive what was read of ``rows``; each prompt is among them as a row of its own."""


def _most_probable(logits: Float[Tensor, "n d_vocab"], prompts: Sequence[int], step: int) -> list[int]:
    return logits.argmax(dim=-1).tolist()


@dataclass(frozen=True)
class _Choices:
    """How the tokens are chosen; ``limits`` and ``ended`` are those of each prompt."""

    choose: Choose
    limits: Sequence[int]
    ended: Sequence[Ended]
    reader: Reader | None = None

    def goes_on(self, prompt: int, written: Sequence[int], model: RunningModel) -> bool:
        """Whether the answer to the prompt at this index has not ended."""
        return len(written) < self.limits[prompt] and not self.ended[prompt](model.tokenizer.decode(written))


@dataclass
class _Rows:
    """The prompts of one batch after a pass over them, and their answers as they grow.

    Attributes:
        prompts: the index of each row.
        mask: which places of ``cache`` hold tokens of the row, ``[n_rows, n]``.
        position: of the next token of each row.
        logits: of the next token.
    """

    prompts: list[int]
    cache: KeyValueCache
    mask: Int[Tensor, "n_rows n"]
    position: Int[Tensor, " n_rows"]
    logits: Float[Tensor, "n_rows d_vocab"]

    @classmethod
    def together(cls, parts: Sequence[_Rows]) -> _Rows:
        """The rows of all parts, which are used up."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.mask.shape[1] for part in parts)
        masks = [torch.nn.functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]
        return cls(
            prompts=[index for part in parts for index in part.prompts],
            cache=joined([part.cache for part in parts]),
            mask=torch.cat(masks),
            position=torch.cat([part.position for part in parts]),
            logits=torch.cat([part.logits for part in parts]),
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the other rows."""
        kept = torch.tensor(rows, device=self.mask.device)
        self.prompts = [self.prompts[row] for row in rows]
        self.cache.batch_select_indices(kept)
        self.mask, self.position = self.mask[kept], self.position[kept]

    def advance(self, model: RunningModel, tokens: Sequence[int]) -> None:
        """Run the chosen token of each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        arguments = {
            "input_ids": torch.tensor(tokens, device=model.device)[:, None],
            "attention_mask": self.mask,
            "position_ids": self.position[:, None],
        }
        with reading_head_at(model, torch.arange(len(tokens))):
            self.logits = model.model(**arguments, past_key_values=self.cache, use_cache=True).logits[0]
        self.position = self.position + 1


def _continue(
    model: RunningModel, prompts: Sequence[tuple[int, ...]], choices: _Choices, batch_size: int, progress: Progress
) -> list[tuple[int, ...]]:
    """The tokens after each prompt."""
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    groups = prefix_groups([ids[:-1] for ids in prompts])
    with torch.inference_mode():
        prefixes = Prefixes(model) if choices.reader is None else choices.reader.prefixes(model)
        bytes_each = _bytes_of_a_token(model, groups, prefixes)
        done = 0
        for batch in _batches(model, prompts, choices.limits, groups, batch_size, bytes_each):
            rows = _Rows.together(
                [
                    each
                    for number, indices in batch.items()
                    for each in _prompted(model, prompts, indices, groups[number].prefix, prefixes, choices.reader)
                ]
            )
            done += len(rows.prompts)
            for index, tokens in _answers(model, rows, choices).items():
                answers[index] = tuple(tokens)
            progress.step("Writing answers", done, len(prompts))
    return answers


def _batches(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    limits: Sequence[int],
    groups: Sequence[PrefixGroup],
    batch_size: int,
    bytes_each: int,
) -> Iterator[dict[int, list[int]]]:
    """Group -> indices of its prompts: ``batch_size`` together, or those with ``CACHE_BYTES`` of keys and values.

    A prompt that may grow beyond the window of a sliding layer is alone.
    Answers that may be long go together, since the last of a batch are written with few rows; then those of one group.
    """

    def order(place: tuple[int, int]) -> tuple[int, int, int, int]:
        number, index = place
        return limits[index].bit_length(), len(groups[number].prefix), number, len(prompts[index])

    batch: dict[int, list[int]] = {}
    n_rows = longest = 0
    for number, index in sorted(((n, index) for n, group in enumerate(groups) for index in group.members), key=order):
        length = len(prompts[index]) + limits[index]
        longest = max(longest, length)
        is_full = n_rows >= batch_size and (n_rows + 1) * longest * bytes_each > CACHE_BYTES
        beyond_window = model.window is not None and longest > model.window  # padding would take up places of it
        if n_rows and (is_full or beyond_window):
            yield batch
            batch, n_rows, longest = {}, 0, length
        batch.setdefault(number, []).append(index)
        n_rows += 1
    if batch:
        yield batch


def _bytes_of_a_token(model: RunningModel, groups: Sequence[PrefixGroup], prefixes: Prefixes) -> int:
    """Memory of the keys and values of one token; without a prefix, as if every head of queries had its own."""
    prefix = next((group.prefix for group in groups if group.prefix), None)
    if prefix is not None:
        return n_bytes(prefixes.cache(prefix)) // len(prefix)
    weight: Tensor = next(model.model.parameters())
    return 2 * model.architecture.n_layers * model.architecture.d_model * weight.element_size()


def _prompted(
    model: RunningModel,
    prompts: Sequence[tuple[int, ...]],
    indices: Sequence[int],
    prefix: tuple[int, ...],
    prefixes: Prefixes,
    reader: Reader | None,
) -> Iterator[_Rows]:
    """The prompts at ``indices``, all of one group, after the passes over them; ``reader`` receives what it asks for.

    Args:
        prefix: the group's.
    """
    cache, start = prefixes.cache(prefix), len(prefix)
    rows = [Row(prompts[index], len(prompts[index]) - 1) for index in indices]
    if reader is not None:
        unread = dict.fromkeys(row for index in indices for row in reader.unread(prompts[index]))
        rows += unread.keys() - set(rows)
    for part in parts(model, rows, start):
        layout = Layout.of(model, [rows[number] for number in part], start)
        own = repeated(cache, layout.n_rows)
        with nullcontext() if reader is None else states_at(model, layout.last) as states:
            logits = layout.logits(model, own)
        if reader is not None and states is not None:
            reader.take(layout.rows, states.batch(part, finite(logits.float())))
        written = [place for place, number in enumerate(part) if number < len(indices)]
        if written:
            ends = torch.tensor([len(row.positions) for row in layout.rows]).cumsum(0) - 1
            kept, mask = layout.continued(own, written)
            position = mask.sum(dim=1)
            yield _Rows([indices[part[place]] for place in written], kept, mask, position, logits[ends[written]])


def _answers(model: RunningModel, rows: _Rows, choices: _Choices) -> dict[int, list[int]]:
    """The answer to each prompt of one batch: one token at a time for the rows that have not ended."""
    ends = _end_ids(model)
    written: dict[int, list[int]] = {index: [] for index in rows.prompts}
    over: set[int] = set()  # prompts whose answers have ended; their rows may go on for a while
    for step in range(max(choices.limits[index] for index in rows.prompts)):
        chosen = choices.choose(rows.logits, rows.prompts, step)
        for index, token in zip(rows.prompts, chosen, strict=True):
            if index in over:
                continue
            if token not in ends:
                written[index].append(token)
            if token in ends or not choices.goes_on(index, written[index], model):
                over.add(index)
        going = [row for row, index in enumerate(rows.prompts) if index not in over]
        if not going:
            break
        if len(going) <= FEW * len(rows.prompts):
            rows.keep(going)
            chosen = [chosen[row] for row in going]
        rows.advance(model, chosen)
    return written


def _end_ids(model: RunningModel) -> frozenset[int]:
    """The end tokens that the tokenizer and the config name."""
    named = (model.tokenizer.eos_token_id, model.model.config.eos_token_id)
    ids = (entry for value in named for entry in (value if isinstance(value, list) else [value]))
    return frozenset(entry for entry in ids if entry is not None)
