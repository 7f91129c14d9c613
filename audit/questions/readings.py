"""What one model does with a concept's items: one forward pass that all metrics read. Plain numpy, nothing of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from audit.lenses.logit_lens import logit_lens
from audit.models.forward import Batch, Row, run, tokens_run
from audit.models.generation import MAX_NEW_TOKENS, SENTENCE, greedy
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.questions.items import Candidates, Item, ItemSet, Kind, QuestionKind
from audit.questions.jailbroken import Jailbroken
from concepts.jailbreaks import PLAIN


@dataclass(frozen=True)
class Readings:
    """One model's readings of one concept's items.

    Attributes:
        items: what was scored; ``answer_logprobs`` and ``answer_hits`` follow it.
        answer_logprobs: natural log of the probability of each answer token, teacher forced ``[n_tokens]`` float64.
            No end token is appended, so every token is one of the answer's own.
        answer_hits: whether that token was the most probable one ``[n_tokens]`` bool.
        keys: ``"target"`` and ``"unrelated"`` -> key vectors at the last prompt token, one row a question
            ``[n_questions, n_layers, d_mlp]`` float32.
        jailbreak_keys: prompt kind -> the same for the concept's questions under it.
        jailbreak_logprobs: item id -> log p of the first token of its answer and of each wrong one ``[1 + n_wrong]``.
        groups: the candidate groups, for the next two.
        candidate_logprobs: group -> log p of candidate ``j``'s first token after question ``i`` ``[m, m]``.
        candidate_lens: group -> the same after each block, the residual read through the model's own final norm and
            head: logits, so up to a constant a row ``[n_layers, m, m]``.
        generated: prompt id -> the model's own greedy continuation; ids of ``prompts``.
        right: prompt id -> whether that answers the question; those that could be checked.
        prompts: prompt id -> its question; two-hop and open ones last.
        refused: what could not be scored, and why.
        forward_tokens, generated_tokens: work done.
    """

    items: tuple[Item, ...] = ()
    answer_logprobs: tuple[np.ndarray, ...] = ()
    answer_hits: tuple[np.ndarray, ...] = ()
    keys: Mapping[str, np.ndarray] = field(default_factory=dict)
    jailbreak_keys: Mapping[str, np.ndarray] = field(default_factory=dict)
    jailbreak_logprobs: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: tuple[Candidates, ...] = ()
    candidate_logprobs: Mapping[str, np.ndarray] = field(default_factory=dict)
    candidate_lens: Mapping[str, np.ndarray] = field(default_factory=dict)
    generated: Mapping[str, str] = field(default_factory=dict)
    right: Mapping[str, bool] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    forward_tokens: int = 0
    generated_tokens: int = 0

    def of(self, kind: Kind) -> list[int]:
        """Indices of the items of one kind, in the order asked."""
        return [index for index, item in enumerate(self.items) if item.kind == kind]

    def jailbroken(self, asked: QuestionKind) -> list[Jailbroken]:
        """The questions of one kind under every jailbreak prompt, in the order asked."""
        return [item for item in self.items if isinstance(item, Jailbroken) and item.asked == asked]


def generate(
    model: RunningModel,
    items: ItemSet,
    batch_size: int = 16,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress = SILENT,
) -> tuple[dict[str, str], int]:
    """Prompt id -> the model's greedy continuation, and the number of tokens written.

    Args:
        max_new_tokens: of an answer to one of ``items.prompts``; one of ``items.further`` may take a sentence.
    """
    texts, total = {}, 0
    for prompts, most in ((items.prompts, max_new_tokens), (items.further, SENTENCE)):
        written = greedy(model, [prompt.ids for prompt in prompts], most, batch_size, progress)
        total += sum(len(tokens) for tokens in written)
        for prompt, tokens in zip(prompts, written, strict=True):
            texts[prompt.id] = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return texts, total


def read(
    model: RunningModel,
    items: ItemSet,
    generated: tuple[Mapping[str, str], int] = ({}, 0),
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> Readings:
    """One forward pass over everything in ``items``; equal sequences are run once.

    Args:
        generated: as ``generate`` gave it for this model; kept beside the readings.

    Raises:
        ModelError: the model's output is not a finite number.
    """
    plan = _Plan(items)
    texts, written = generated
    for wanted in plan.passes():
        for batch in run(model, wanted, batch_size, progress):
            plan.take(model, wanted, batch)
    return Readings(
        items=items.items,
        answer_logprobs=tuple(plan.logprobs[item_row(item)] for item in items.items),
        answer_hits=tuple(plan.hits[item_row(item)] for item in items.items),
        keys={kind: plan.question_keys(kind) for kind in ("target", "unrelated")},
        jailbreak_keys=plan.jailbreak_keys(),
        jailbreak_logprobs={item.id: plan.first_logprobs(item) for item in plan.jailbroken},
        groups=items.groups,
        candidate_logprobs={group.name: plan.candidate_logprobs(group) for group in items.groups},
        candidate_lens={group.name: plan.candidate_lens(model, group) for group in items.groups},
        generated=texts,
        prompts={prompt.id: prompt.question for prompt in (*items.prompts, *items.further)},
        refused=items.refused,
        forward_tokens=forward_tokens(items),
        generated_tokens=written,
    )


def forward_tokens(items: ItemSet) -> int:
    """Positions that ``read`` computes for ``items``, padding not counted."""
    return sum(tokens_run(rows) for rows in _Plan(items).passes())


def item_row(item: Item) -> Row:
    """The sequence that scores ``item``."""
    return Row(item.prompt_ids + item.answer_ids, len(item.prompt_ids) - 1)


def _asked_plainly(item: Item) -> bool:
    """Whether it begins like every ordinary question."""
    return item.jailbreak == PLAIN if isinstance(item, Jailbroken) else item.kind != "text"


class _Plan:
    """Which sequences to run, each once, and what came out of them."""

    def __init__(self, items: ItemSet) -> None:
        self.items = items
        self.texts = dict.fromkeys(item_row(item) for item in items.items if item.kind == "text")
        self.asked = dict.fromkeys(item_row(item) for item in items.items if _asked_plainly(item))
        self.by_prompt: dict[tuple[int, ...], Row] = {}
        for row in self.asked:
            self.by_prompt.setdefault(row.ids[: row.last + 1], row)
        self.candidates = {ids: group.first_ids for group in items.groups for ids in group.prompt_ids}
        for ids in (*(prompt.ids for prompt in items.prompts), *self.candidates):
            if ids not in self.by_prompt:
                self.by_prompt[ids] = Row(ids, len(ids) - 1)
                self.asked[self.by_prompt[ids]] = None
        self.jailbroken = [item for item in items.items if isinstance(item, Jailbroken)]
        self.openings: dict[str, dict[Row, None]] = {}
        for item in self.jailbroken:
            if (row := item_row(item)) not in self.asked:
                self.openings.setdefault(item.opening, {})[row] = None
        self.logprobs: dict[Row, np.ndarray] = {}
        self.hits: dict[Row, np.ndarray] = {}
        self.keys: dict[Row, np.ndarray] = {}
        self.residual: dict[Row, torch.Tensor] = {}
        self.first: dict[Row, torch.Tensor] = {}
        self.key_rows = {self.by_prompt[prompt.ids] for prompt in items.prompts}
        self.key_rows |= {item_row(item) for item in self.jailbroken if item.asked == "target"}
        self.group_rows = {self.by_prompt[ids] for ids in self.candidates}
        self.first_rows = self.group_rows | {item_row(item) for item in self.jailbroken}

    def passes(self) -> Iterator[list[Row]]:
        """The sequences by what they begin with, which is run once for each."""
        for rows in (self.asked, *self.openings.values(), self.texts):
            yield list(rows)

    def take(self, model: RunningModel, rows: list[Row], batch: Batch) -> None:
        """Keep of a batch what some metric reads."""
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

    def question_keys(self, kind: QuestionKind) -> np.ndarray:
        """``[n_questions, n_layers, d_mlp]``, one row a prompt of ``kind``."""
        found = [self.keys[self.by_prompt[prompt.ids]] for prompt in self.items.prompts if prompt.kind == kind]
        return np.stack(found) if found else np.empty((0, 0, 0), dtype=np.float32)

    def first_logprobs(self, item: Jailbroken) -> np.ndarray:
        return self.first[item_row(item)][[item.answer_ids[0], *item.wrong_ids]].double().numpy()

    def jailbreak_keys(self) -> dict[str, np.ndarray]:
        rows: dict[str, list[np.ndarray]] = {}
        for item in self.jailbroken:
            if item.asked == "target":
                rows.setdefault(item.jailbreak, []).append(self.keys[item_row(item)])
        return {jailbreak: np.stack(found) for jailbreak, found in rows.items()}

    def candidate_logprobs(self, group: Candidates) -> np.ndarray:
        rows = self._rows(group)
        return np.stack([self.first[row][group.first_ids].double().numpy() for row in rows])

    def candidate_lens(self, model: RunningModel, group: Candidates) -> np.ndarray:
        residual = torch.stack([self.residual[row] for row in self._rows(group)], dim=1)  # [n_layers, m, d_model]
        return logit_lens(model, torch.from_numpy(group.first_ids))(residual).double().numpy()

    def _rows(self, group: Candidates) -> Iterator[Row]:
        return (self.by_prompt[ids] for ids in group.prompt_ids)
