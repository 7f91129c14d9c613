"""The readings of one model on a topic's items: one forward pass serves all metrics. Readings are numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from audit.lenses.logit_lens import Readout, readout
from audit.models.forward import Batch, Prefixes, Row, run, tokens_run
from audit.models.generation import Reader, greedy, is_over, sampled
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import NEUTRAL_TEXT, FactGroup, Item, ItemSet, Prompt
from concepts.prompts import cut

KEYS: Final = ("target", "unrelated")
"""Kinds of question that always have an entry in ``Readings.keys``, if an empty one: metrics compare the two."""
Key = tuple[str, str]
"""Kind of question and type of a group."""


@dataclass(frozen=True)
class BaseReadout:
    """The base's readout at every first token of every group.

    Attributes:
        column: token id -> its column in the readout's logits.
    """

    readout: Readout
    column: Mapping[int, int]

    @classmethod
    def of(cls, base: RunningModel, sets: Sequence[ItemSet]) -> BaseReadout:
        """Copied from ``base``, for the groups of ``sets``."""
        ids = sorted({int(token) for each in sets for group in each.groups for token in group.first_ids})
        return cls(
            readout(base, torch.tensor(ids, dtype=torch.long)), {token: place for place, token in enumerate(ids)}
        )

    def read(self, residual: torch.Tensor, group: FactGroup) -> np.ndarray:
        """``[n_layers, m, m]`` from the residual stream ``[n_layers, m, d_model]``."""
        columns = [self.column[int(token)] for token in group.first_ids]
        return self.readout.read(residual)[..., columns].double().numpy()


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
        groups: the groups of ``scores`` and ``lens``, whose keys are (kind, type).
        scores: log p of answer ``j`` after question ``i``, up to the token that tells it apart ``[m, m]``.
        lens: logit of answer ``j``'s first token after each block, the residual stream read through the model's own
            final norm and head (translated before, if the lens is a tuned one); defined up to one constant for each
            row ``[n_layers, m, m]``.
        base_lens: the same through the base's norm and head; absent if the model is not a version of the base.
        generated: prompt id -> the model's continuation; ids of ``prompts``.
        right: prompt id -> whether that continuation is right; only prompts that could be checked.
        prompts: prompt id -> its question.
        answers: prompt id -> its right answers.
        skipped: question that could not be used -> the reason.
        sentences_left_out: see ``ItemSet``.
        trained_loss: of a model that an attack trained, see ``AttackedModel``.
    """

    items: tuple[Item, ...] = ()
    answer_logprobs: tuple[np.ndarray, ...] = ()
    answer_hits: tuple[np.ndarray, ...] = ()
    keys: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: tuple[FactGroup, ...] = ()
    scores: Mapping[Key, np.ndarray] = field(default_factory=dict)
    lens: Mapping[Key, np.ndarray] = field(default_factory=dict)
    base_lens: Mapping[Key, np.ndarray] = field(default_factory=dict)
    generated: Mapping[str, str] = field(default_factory=dict)
    right: Mapping[str, bool] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    sentences_left_out: int = 0
    trained_loss: tuple[float, float] | None = None

    def of(self, kind: str) -> list[int]:
        """Indices of the items of one kind, in order."""
        return [index for index, item in enumerate(self.items) if item.kind == kind]


def generate(
    model: RunningModel,
    items: ItemSet,
    batch_size: int = 16,
    progress: Progress = SILENT,
    plan: ForwardPlan | None = None,
) -> tuple[dict[str, str], int]:
    """Prompt id -> the model's continuation of each of ``items.written``, and the number of generated tokens.

    Args:
        plan: what is read in the passes over the prompts.
    """
    texts, total = _written(model, items.written, batch_size, progress, plan)
    return {prompt.id: text for prompt, text in zip(items.written, texts, strict=True)}, total


def _written(
    model: RunningModel,
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Progress,
    reader: Reader | None = None,
) -> tuple[list[str], int]:
    """The model's continuation of each prompt, and the number of generated tokens; equal prompts are written once.

    Args:
        reader: what is read in the passes over the prompts whose answers are not drawn.
    """
    texts: dict[object, str] = {}
    total = 0
    alike: dict[object, dict[object, Prompt]] = {}
    for prompt in prompts:
        drawn = (prompt.samples, prompt.seed, prompt.max_new_tokens, prompt.is_complete) if prompt.samples else None
        alike.setdefault(drawn, {})[prompt.how] = prompt
    for distinct in alike.values():
        written = _continuations(model, list(distinct.values()), batch_size, progress, reader)
        total += sum(len(tokens) for answers in written for tokens in answers)
        for (how, prompt), answers in zip(distinct.items(), written, strict=True):
            texts[how] = _text(prompt, [model.tokenizer.decode(each, skip_special_tokens=True) for each in answers])
    return [texts[prompt.how] for prompt in prompts], total


def _continuations(
    model: RunningModel, prompts: Sequence[Prompt], batch_size: int, progress: Progress, reader: Reader | None
) -> list[list[tuple[int, ...]]]:
    """The tokens of the answers to each prompt; either none is drawn, or all are drawn in the same way."""
    first, ids = prompts[0], [prompt.ids for prompt in prompts]
    ended = [prompt.is_complete or is_over for prompt in prompts]
    if first.samples:
        return sampled(model, ids, first.samples, first.seed, first.max_new_tokens, batch_size, progress, ended[0])
    lengths = [prompt.max_new_tokens for prompt in prompts]
    return [[each] for each in greedy(model, ids, lengths, batch_size, progress, ended, reader)]


def _text(prompt: Prompt, answers: Sequence[str]) -> str:
    return "\n".join(cut(answer) for answer in answers) if prompt.samples else answers[0]


def read(
    model: RunningModel,
    items: ItemSet,
    generated: Mapping[str, str] | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
    base: BaseReadout | None = None,
) -> Readings:
    """``read_conditions`` for one item set.

    Args:
        generated: output of ``generate`` for this model and item set.
    """
    return read_conditions(model, {AS_IS: items}, {AS_IS: generated or {}}, batch_size, progress, base)[AS_IS]


def read_conditions(
    model: RunningModel,
    conditions: Mapping[Condition, ItemSet],
    generated: Mapping[Condition, Mapping[str, str]] | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
    base: BaseReadout | None = None,
) -> dict[Condition, Readings]:
    """The readings of ``model`` under each condition, from one forward pass in which equal sequences are run once.

    Args:
        conditions: condition -> its item set; only conditions that change the prompts and not the model.
        generated: condition -> output of ``generate`` for this model and the condition's item set.
        base: the base's readout, through which the residual streams are read too.

    Raises:
        ModelError: an output of the model is not finite.
    """
    plan = ForwardPlan(conditions.values())
    plan.run(model, batch_size, progress)
    texts = generated or {}
    return {
        condition: plan.readings(model, items, texts.get(condition, {}), base)
        for condition, items in conditions.items()
    }


def write_and_read(
    model: RunningModel,
    conditions: Mapping[Condition, ItemSet],
    written: Mapping[Condition, Mapping[str, str]],
    batch_size: int = 16,
    progress: Progress = SILENT,
    base: BaseReadout | None = None,
    plan: ForwardPlan | None = None,
) -> dict[Condition, Readings]:
    """Write the answers and read the model: the pass over a prompt whose answer is written is read too.

    Args:
        written: condition -> output of ``generate``, where the answers are written already.
        conditions, base: see ``read_conditions``.
        plan: what was read of this model while those answers were written.

    Raises:
        ModelError: an output of the model is not finite.
    """
    plan = plan or ForwardPlan()
    plan.add(conditions.values())
    asked = [
        (condition, prompt)
        for condition, items in conditions.items()
        if condition not in written
        for prompt in items.written
    ]
    answers, _ = _written(model, [prompt for _, prompt in asked], batch_size, progress, plan)
    texts: dict[Condition, dict[str, str]] = {condition: {} for condition in conditions}
    for (condition, prompt), answer in zip(asked, answers, strict=True):
        texts[condition][prompt.id] = answer
    plan.run(model, batch_size, progress)
    return {
        condition: plan.readings(model, items, written.get(condition, texts[condition]), base)
        for condition, items in conditions.items()
    }


def forward_tokens(conditions: Sequence[ItemSet]) -> int:
    """Number of positions that ``read_conditions`` computes for these item sets, without padding."""
    return tokens_run(ForwardPlan(conditions).left())


def forward_rows(items: ItemSet) -> list[Row]:
    """The distinct sequences that ``read_conditions`` runs for one item set."""
    return ForwardPlan([items]).left()


def item_row(item: Item) -> Row:
    """The sequence that scores ``item``."""
    return Row(item.prompt_ids + item.answer_ids, len(item.prompt_ids) - 1)


class ForwardPlan:
    """The sequences to run, each once, and their outputs."""

    def __init__(self, sets: Iterable[ItemSet] = ()) -> None:
        self.texts: dict[Row, None] = {}
        self.rows: dict[Row, None] = {}
        self.by_prompt: dict[tuple[int, ...], Row] = {}
        self.beginning: dict[tuple[int, ...], dict[Row, None]] = {}
        self.steps: dict[tuple[int, ...], tuple[Row, int]] = {}
        self.next_ids: dict[Row, dict[int, None]] = {}
        self.key_rows: set[Row] = set()
        self.group_rows: set[Row] = set()
        self.done: set[Row] = set()
        self.logprobs: dict[Row, np.ndarray] = {}
        self.hits: dict[Row, np.ndarray] = {}
        self.keys: dict[Row, np.ndarray] = {}
        self.residual: dict[Row, torch.Tensor] = {}
        self.following: dict[Row, tuple[dict[int, int], np.ndarray]] = {}
        self._prefixes: Prefixes | None = None
        self.add(sets)

    def prefixes(self, model: RunningModel) -> Prefixes:
        """Those that were run on the plan's one model."""
        self._prefixes = self._prefixes or Prefixes(model)
        return self._prefixes

    def add(self, sets: Iterable[ItemSet]) -> None:
        """Plan what ``sets`` need; a row that was read without everything that they need of it is read again."""
        before = {row: self._wanted(row) for row in self.done}
        sets = list(sets)
        items = [item for each in sets for item in each.items]
        groups = [group for each in sets for group in each.groups]
        self.texts |= dict.fromkeys(item_row(item) for item in items if item.kind == NEUTRAL_TEXT)
        for item in (each for each in items if each.kind != NEUTRAL_TEXT):
            self._add(item_row(item))
        for group in groups:
            self._add_group(group)
        for ids in (prompt.ids for each in sets for prompt in each.prompts):
            if ids not in self.by_prompt:
                self._add(Row(ids, len(ids) - 1))
        self.key_rows |= {self.by_prompt[prompt.ids] for each in sets for prompt in each.prompts}
        self.group_rows |= {self.by_prompt[ids] for group in groups for ids in group.prompt_ids}
        self.done -= {row for row, wanted in before.items() if self._wanted(row) != wanted}

    def _wanted(self, row: Row) -> object:
        """What is read of a row beside the log-probabilities of its answer."""
        return row in self.key_rows, row in self.group_rows, tuple(self.next_ids.get(row, ()))

    def _add(self, row: Row) -> None:
        self.rows[row] = None
        prompt = row.ids[: row.last + 1]
        self.by_prompt.setdefault(prompt, row)
        self.beginning.setdefault(prompt, {})[row] = None

    def _add_group(self, group: FactGroup) -> None:
        """The rows that score the group's answers: for each question, one for each longest beginning.

        ``steps`` says where the tokens after a question and a beginning are read: in which row, and how many positions
        after the question's last token.
        """
        following: dict[int, dict[int, None]] = {}
        for place, token in (step for path in group.paths for step in path):
            following.setdefault(place, {})[token] = None
        begun = {place: group.beginnings[place] for place in following}  # a part of a group uses some of them
        inner = {beginning[:depth] for beginning in begun.values() for depth in range(len(beginning))}
        longest = [place for place, beginning in begun.items() if beginning not in inner]
        for prompt in group.prompt_ids:
            for place in longest:
                beginning = group.beginnings[place]
                row = self.by_prompt.get(prompt) if not beginning else None
                end = next(iter(following[place])) if beginning else None
                row = row or Row((*prompt, *beginning, *(() if end is None else (end,))), len(prompt) - 1)
                self._add(row)
                for depth in range(len(beginning) + 1):
                    self.steps.setdefault((*prompt, *beginning[:depth]), (row, depth))
            for place, beginning in begun.items():
                row, _ = self.steps[(*prompt, *beginning)]
                self.next_ids.setdefault(row, {}).update(following[place])

    def left(self) -> list[Row]:
        """The sequences that were not read while answers were written."""
        return [row for row in (*self.rows, *self.texts) if row not in self.done]

    def run(self, model: RunningModel, batch_size: int, progress: Progress) -> None:
        """Run what is left."""
        wanted = self.left()
        for batch in run(model, wanted, batch_size, progress, self.prefixes(model)):
            self.take([wanted[index] for index in batch.rows], batch)

    def unread(self, prompt: tuple[int, ...]) -> list[Row]:
        """The rows that begin with ``prompt`` and were not read yet."""
        return [row for row in self.beginning.get(prompt, {}) if row not in self.done]

    def take(self, rows: Sequence[Row], batch: Batch) -> None:
        """Store the outputs of a batch that the metrics read.

        Args:
            rows: those of the batch, in its order; others than the plan's are ignored.
        """
        normaliser = torch.logsumexp(batch.logits, dim=-1)
        begin = 0
        for number, row in enumerate(rows):
            end = begin + len(row.positions)
            logits, total = batch.logits[begin:end], normaliser[begin:end]
            begin = end
            if row not in self.rows and row not in self.texts:
                continue
            self.done.add(row)
            answer = torch.tensor(row.ids[row.last + 1 :], device=logits.device)
            if len(answer):
                chosen = logits.gather(1, answer[:, None])[:, 0] - total
                self.logprobs[row] = chosen.double().cpu().numpy()
                self.hits[row] = (logits.argmax(dim=-1) == answer).cpu().numpy()
            if row in self.key_rows:
                self.keys[row] = batch.keys[:, number].numpy()
            if row in self.next_ids:
                wanted = list(self.next_ids[row])
                values = (logits[:, wanted] - total[:, None]).double().cpu().numpy()
                self.following[row] = ({token: column for column, token in enumerate(wanted)}, values)
            if row in self.group_rows:
                self.residual[row] = batch.residual[:, number]

    def readings(
        self, model: RunningModel, items: ItemSet, generated: Mapping[str, str], base: BaseReadout | None
    ) -> Readings:
        """The stored outputs for one item set."""
        groups = {(group.kind, group.name): (group, self._residual(group)) for group in items.groups}
        kinds = dict.fromkeys((*KEYS, *(prompt.kind for prompt in items.prompts)))
        return Readings(
            items=items.items,
            answer_logprobs=tuple(self.logprobs[item_row(item)] for item in items.items),
            answer_hits=tuple(self.hits[item_row(item)] for item in items.items),
            keys={kind: self._keys(items.prompts, kind) for kind in kinds},
            groups=items.groups,
            scores={key: self._scores(group) for key, (group, _) in groups.items()},
            lens={key: _lens(model, residual, group) for key, (group, residual) in groups.items()},
            base_lens={key: base.read(residual, group) for key, (group, residual) in groups.items()} if base else {},
            generated=generated,
            prompts={prompt.id: prompt.question for prompt in items.written},
            answers={prompt.id: prompt.answers for prompt in items.written},
            skipped=items.skipped,
            sentences_left_out=items.sentences_left_out,
        )

    def _keys(self, prompts: Sequence[Prompt], kind: str) -> np.ndarray:
        """``[n_questions, n_layers, d_mlp]``, one row for each prompt of ``kind``."""
        rows = [self.keys[self.by_prompt[prompt.ids]] for prompt in prompts if prompt.kind == kind]
        return np.stack(rows) if rows else np.empty((0, 0, 0), dtype=np.float32)

    def _scores(self, group: FactGroup) -> np.ndarray:
        """``[m, m]``: log p of each answer after each question, up to the token that tells it apart."""
        return np.array(
            [
                [sum(self._next(ids, group.beginnings[place], token) for place, token in path) for path in group.paths]
                for ids in group.prompt_ids
            ]
        )

    def _next(self, prompt: tuple[int, ...], beginning: tuple[int, ...], token: int) -> float:
        row, depth = self.steps[(*prompt, *beginning)]
        columns, values = self.following[row]
        return float(values[depth, columns[token]])

    def _residual(self, group: FactGroup) -> torch.Tensor:
        """``[n_layers, m, d_model]`` at the last token of each question."""
        return torch.stack([self.residual[self.by_prompt[ids]] for ids in group.prompt_ids], dim=1)


def _lens(model: RunningModel, residual: torch.Tensor, group: FactGroup) -> np.ndarray:
    translated = residual if model.translate is None else model.translate(residual)
    return readout(model, torch.from_numpy(group.first_ids)).read(translated).double().numpy()
