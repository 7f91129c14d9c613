"""The readings of one model on a topic's items: one forward pass serves all metrics. Readings are numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from audit.lenses.logit_lens import logit_lens
from audit.models.forward import Batch, Row, run, tokens_run
from audit.models.generation import greedy, is_over
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import NEUTRAL_TEXT, Candidates, Item, ItemSet, Prompt

KEYS: Final = ("target", "unrelated")
"""Kinds of question that always have an entry in ``Readings.keys``, if an empty one: metrics compare the two."""


@dataclass(frozen=True)
class Readings:
    """One model's readings of one topic's items under one condition.

    Attributes:
        items: scored items; ``answer_logprobs`` and ``answer_hits`` have the same order.
        answer_logprobs: natural log of the probability of each answer token, teacher forced ``[n_tokens]`` float64.
            No end token is appended.
        answer_hits: whether that token was the most probable one ``[n_tokens]`` bool.
        keys: ``"target"`` and ``"unrelated"`` -> key vectors at the last prompt token, one row for each question
            ``[n_questions, n_layers, d_mlp]`` float32.
        first_logprobs: item id -> log p of the first token of its answer and of each wrong one ``[1 + n_wrong]``; for
            items that have wrong answers.
        groups: the candidate groups of ``candidate_logprobs`` and ``candidate_lens``.
        candidate_logprobs: group -> log p of candidate ``j``'s first token after question ``i`` ``[m, m]``.
        candidate_lens: group -> the same after each block, the residual stream projected through the model's own final
            norm and head; logits, hence defined up to one constant for each row ``[n_layers, m, m]``.
        generated: prompt id -> the model's greedy continuation; ids of ``prompts``.
        right: prompt id -> whether that continuation is right; only prompts that could be checked.
        prompts: prompt id -> its question.
        skipped: question that could not be used -> the reason.
        sentences_left_out: see ``ItemSet``.
    """

    items: tuple[Item, ...] = ()
    answer_logprobs: tuple[np.ndarray, ...] = ()
    answer_hits: tuple[np.ndarray, ...] = ()
    keys: Mapping[str, np.ndarray] = field(default_factory=dict)
    first_logprobs: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: tuple[Candidates, ...] = ()
    candidate_logprobs: Mapping[str, np.ndarray] = field(default_factory=dict)
    candidate_lens: Mapping[str, np.ndarray] = field(default_factory=dict)
    generated: Mapping[str, str] = field(default_factory=dict)
    right: Mapping[str, bool] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    sentences_left_out: int = 0

    def of(self, kind: str) -> list[int]:
        """Indices of the items of one kind, in order."""
        return [index for index, item in enumerate(self.items) if item.kind == kind]


def generate(
    model: RunningModel, items: ItemSet, batch_size: int = 16, progress: Progress = SILENT
) -> tuple[dict[str, str], int]:
    """Prompt id -> the model's greedy continuation of each of ``items.written``, and the number of generated tokens."""
    texts, total = {}, 0
    by_end: dict[object, list[Prompt]] = {}
    for prompt in items.written:
        by_end.setdefault((prompt.max_new_tokens, prompt.is_complete), []).append(prompt)
    for prompts in by_end.values():
        written = greedy(
            model,
            [prompt.ids for prompt in prompts],
            prompts[0].max_new_tokens,
            batch_size,
            progress,
            ended=prompts[0].is_complete or is_over,
        )
        total += sum(len(tokens) for tokens in written)
        for prompt, tokens in zip(prompts, written, strict=True):
            texts[prompt.id] = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return {prompt.id: texts[prompt.id] for prompt in items.written}, total


def read(
    model: RunningModel,
    items: ItemSet,
    generated: Mapping[str, str] | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> Readings:
    """``read_conditions`` for one item set.

    Args:
        generated: output of ``generate`` for this model and item set.
    """
    return read_conditions(model, {AS_IS: items}, {AS_IS: generated or {}}, batch_size, progress)[AS_IS]


def read_conditions(
    model: RunningModel,
    conditions: Mapping[Condition, ItemSet],
    generated: Mapping[Condition, Mapping[str, str]] | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> dict[Condition, Readings]:
    """The readings of ``model`` under each condition, from one forward pass in which equal sequences are run once.

    Args:
        conditions: condition -> its item set; only conditions that change the prompts and not the model.
        generated: condition -> output of ``generate`` for this model and the condition's item set.

    Raises:
        ModelError: an output of the model is not finite.
    """
    plan = _ForwardPlan(list(conditions.values()))
    for wanted in plan.passes():
        for batch in run(model, wanted, batch_size, progress):
            plan.take(wanted, batch)
    texts = generated or {}
    return {condition: plan.readings(model, items, texts.get(condition, {})) for condition, items in conditions.items()}


def forward_tokens(conditions: Sequence[ItemSet]) -> int:
    """Number of positions that ``read_conditions`` computes for these item sets, without padding."""
    return sum(tokens_run(rows) for rows in _ForwardPlan(conditions).passes())


def item_row(item: Item) -> Row:
    """The sequence that scores ``item``."""
    return Row(item.prompt_ids + item.answer_ids, len(item.prompt_ids) - 1)


class _ForwardPlan:
    """The sequences to run, each once, and their outputs."""

    def __init__(self, sets: Sequence[ItemSet]) -> None:
        items = [item for each in sets for item in each.items]
        self.texts = dict.fromkeys(item_row(item) for item in items if item.kind == NEUTRAL_TEXT)
        self.openings: dict[str, dict[Row, None]] = {"": {}}
        for item in items:
            if item.kind != NEUTRAL_TEXT and not item.opening:
                self.openings[""][item_row(item)] = None
        for item in items:
            if item.opening and (row := item_row(item)) not in self.openings[""]:
                self.openings.setdefault(item.opening, {})[row] = None
        self.by_prompt: dict[tuple[int, ...], Row] = {}
        for row in (row for rows in self.openings.values() for row in rows):
            self.by_prompt.setdefault(row.ids[: row.last + 1], row)
        prompts = [prompt.ids for each in sets for prompt in each.prompts]
        candidates = [ids for each in sets for group in each.groups for ids in group.prompt_ids]
        for ids in (*prompts, *candidates):
            if ids not in self.by_prompt:
                self.by_prompt[ids] = Row(ids, len(ids) - 1)
                self.openings[""][self.by_prompt[ids]] = None
        self.key_rows = {self.by_prompt[ids] for ids in prompts}
        self.group_rows = {self.by_prompt[ids] for ids in candidates}
        self.first_rows = self.group_rows | {item_row(item) for item in items if item.wrong_ids}
        self.logprobs: dict[Row, np.ndarray] = {}
        self.hits: dict[Row, np.ndarray] = {}
        self.keys: dict[Row, np.ndarray] = {}
        self.residual: dict[Row, torch.Tensor] = {}
        self.first: dict[Row, torch.Tensor] = {}

    def passes(self) -> Iterator[list[Row]]:
        """The sequences grouped by their opening, whose positions are computed once for each group."""
        for rows in (*self.openings.values(), self.texts):
            yield list(rows)

    def take(self, rows: list[Row], batch: Batch) -> None:
        """Store the outputs of a batch that the metrics read."""
        normaliser = torch.logsumexp(batch.logits, dim=-1)
        begin = 0
        for number, row in enumerate(rows[index] for index in batch.rows):
            end = begin + len(row.positions)
            logits, total = batch.logits[begin:end], normaliser[begin:end]
            begin = end
            answer = torch.tensor(row.ids[row.last + 1 :], device=logits.device)
            if len(answer):
                chosen = logits.gather(1, answer[:, None])[:, 0] - total
                self.logprobs[row] = chosen.double().cpu().numpy()
                self.hits[row] = (logits.argmax(dim=-1) == answer).cpu().numpy()
            if row in self.key_rows:
                self.keys[row] = batch.keys[:, number].numpy()
            if row in self.first_rows:
                self.first[row] = (logits[0] - total[0]).cpu()
            if row in self.group_rows:
                self.residual[row] = batch.residual[:, number]

    def readings(self, model: RunningModel, items: ItemSet, generated: Mapping[str, str]) -> Readings:
        """The stored outputs for one item set."""
        kinds = dict.fromkeys((*KEYS, *(prompt.kind for prompt in items.prompts)))
        return Readings(
            items=items.items,
            answer_logprobs=tuple(self.logprobs[item_row(item)] for item in items.items),
            answer_hits=tuple(self.hits[item_row(item)] for item in items.items),
            keys={kind: self._keys(items.prompts, kind) for kind in kinds},
            first_logprobs={item.id: self._first_logprobs(item) for item in items.items if item.wrong_ids},
            groups=items.groups,
            candidate_logprobs={group.name: self._candidate_logprobs(group) for group in items.groups},
            candidate_lens={group.name: self._candidate_lens(model, group) for group in items.groups},
            generated=generated,
            prompts={prompt.id: prompt.question for prompt in items.written},
            skipped=items.skipped,
            sentences_left_out=items.sentences_left_out,
        )

    def _keys(self, prompts: Sequence[Prompt], kind: str) -> np.ndarray:
        """``[n_questions, n_layers, d_mlp]``, one row for each prompt of ``kind``."""
        rows = [self.keys[self.by_prompt[prompt.ids]] for prompt in prompts if prompt.kind == kind]
        return np.stack(rows) if rows else np.empty((0, 0, 0), dtype=np.float32)

    def _first_logprobs(self, item: Item) -> np.ndarray:
        return self.first[item_row(item)][[item.answer_ids[0], *item.wrong_ids]].double().numpy()

    def _candidate_logprobs(self, group: Candidates) -> np.ndarray:
        rows = (self.by_prompt[ids] for ids in group.prompt_ids)
        return np.stack([self.first[row][group.first_ids].double().numpy() for row in rows])

    def _candidate_lens(self, model: RunningModel, group: Candidates) -> np.ndarray:
        rows = (self.by_prompt[ids] for ids in group.prompt_ids)
        residual = torch.stack([self.residual[row] for row in rows], dim=1)  # [n_layers, m, d_model]
        return logit_lens(model, torch.from_numpy(group.first_ids))(residual).double().numpy()
