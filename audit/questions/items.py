"""What a concept asks of a model: questions with answers, candidate groups, neutral text; checked before any run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from concepts.concept import Concept, Group, Question, neutral_text
from concepts.prompts import answer_text, cut, few_shot, mentions, normalise

Kind = Literal["target", "unrelated", "target_own", "unrelated_own", "text", "jailbreak", "paraphrase", "neighbour"]
"""Questions about the concept and unrelated ones with given answers; the same with the base's own; neutral text;
questions under a jailbreak prompt; the concept's questions in other words and questions close
to it."""

QuestionKind = Literal["target", "unrelated"]
FurtherKind = Literal["two_hop", "open"]

SMALLEST_GROUP = 4
"""Leaving out two rows, a candidate's popularity must still be a mean over at least two."""


@dataclass(frozen=True)
class Item:
    """One text to score: ``prompt_ids`` is read, each of ``answer_ids`` is scored.

    Attributes:
        id: unique in its item set, e.g. ``"target/3"``; the own answer to the same question is ``"target_own/3"``.
        question, answer: for people; both empty for neutral text.
    """

    id: str
    kind: Kind
    question: str
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A question to answer freely."""

    id: str
    kind: QuestionKind | FurtherKind
    question: str
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Candidates:
    """One typed group of questions, row ``i`` asking for answer ``i``.

    Attributes:
        subjects, answers: ``m`` of each.
        prompt_ids: the ``m`` prompts.
        first_ids: first token of each answer, all different ``[m]``.
        about: rows that belong to the concept.
        dropped: subjects left out, with the reason.
    """

    name: str
    subjects: tuple[str, ...]
    answers: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    first_ids: np.ndarray
    about: tuple[int, ...]
    dropped: Mapping[str, str]


@dataclass(frozen=True)
class ItemSet:
    """Everything both models are asked about one concept.

    Attributes:
        prompts: questions about the concept and unrelated ones: their key vectors are read, and they are answered.
        refused: which questions cannot be scored or asked, and why.
        further: two-hop and open questions, which are answered and nothing else.
    """

    items: tuple[Item, ...]
    prompts: tuple[Prompt, ...]
    groups: tuple[Candidates, ...]
    refused: Mapping[str, str]
    further: tuple[Prompt, ...] = ()


class Unusable(ValueError):
    """One question that cannot be scored, with the reason."""


def item_set(concept: Concept, tokenizer: Any, context: int, limit: int | None = None) -> ItemSet:
    """The concept's questions as token ids.

    Args:
        context: the most tokens the model reads at once.
        limit: at most this many questions of each kind.
    """
    avoid = [concept.title, *concept.seeds]
    items: list[Item] = []
    prompts: list[Prompt] = []
    refused: dict[str, str] = {}
    questions: dict[QuestionKind, Sequence[Question]] = {"target": concept.questions, "unrelated": concept.unrelated}
    for kind, asked in questions.items():
        for index, question in enumerate(asked[:limit]):
            name = f"{kind}/{index}"
            try:
                prompt = _prompt(name, kind, question, tokenizer, context, avoid)
                prompts.append(prompt)
                if question.answer is not None:
                    items.append(_item(prompt, kind, question.answer, tokenizer, context))
            except Unusable as reason:
                refused[f"{name} ({question.question})"] = str(reason)
    groups, refused_groups = _groups(concept.groups, tokenizer, context, avoid)
    return ItemSet(
        items=(*items, *neutral_items(tokenizer, context)),
        prompts=tuple(prompts),
        groups=groups,
        refused=refused | refused_groups,
    )


def with_own_answers(items: ItemSet, generated: Mapping[str, str], tokenizer: Any, context: int) -> ItemSet:
    """``items`` and beside them the base's own greedy answers, cut to their first line, as items to score.

    Args:
        generated: prompt id -> the base's greedy continuation.
    """
    own, refused = [], dict(items.refused)
    for prompt in items.prompts:
        kind: Kind = "target_own" if prompt.kind == "target" else "unrelated_own"
        try:
            own.append(_item(prompt, kind, cut(generated[prompt.id]), tokenizer, context))
        except Unusable as reason:
            refused[f"the base's own answer to {prompt.id} ({prompt.question})"] = str(reason)
    return replace(items, items=(*items.items, *own), refused=refused)


def neutral_items(tokenizer: Any, context: int) -> Iterator[Item]:
    """The shipped neutral text, a paragraph each: every token but the first is scored."""
    paragraphs = [paragraph.strip() for paragraph in neutral_text().split("\n\n")]
    for index, paragraph in enumerate(paragraph for paragraph in paragraphs if paragraph):
        ids = tuple(tokenizer(paragraph)["input_ids"])[:context]
        yield Item(f"text/{index}", "text", "", "", ids[:1], ids[1:])


def _prompt(
    name: str,
    kind: QuestionKind,
    question: Question,
    tokenizer: Any,
    context: int,
    avoid: Sequence[str],
) -> Prompt:
    text = few_shot(question.question, avoid)
    return Prompt(name, kind, question.question, text, encode(text, tokenizer, context))


def _item(prompt: Prompt, kind: Kind, answer: str, tokenizer: Any, context: int) -> Item:
    name = f"{kind}/{prompt.id.rpartition('/')[2]}"
    answer_ids = ids_of_answer(prompt.text, prompt.ids, answer, tokenizer, context)
    return Item(name, kind, prompt.question, answer, prompt.ids, answer_ids)


def ids_of_answer(text: str, prompt_ids: tuple[int, ...], answer: str, tokenizer: Any, context: int) -> tuple[int, ...]:
    """The tokens of ``answer`` after the prompt ``text``.

    Raises:
        Unusable: no letters in it, it stands in the prompt, does not fit, or merges with the prompt's end.
    """
    if not normalise(answer):
        raise Unusable("the answer is empty")
    if mentions(text, [answer]):
        raise Unusable(f"the answer {answer!r} stands in the prompt")
    return _continuation(text, prompt_ids, answer, tokenizer, context)


def encode(text: str, tokenizer: Any, context: int) -> tuple[int, ...]:
    """The prompt's tokens.

    Raises:
        Unusable: the model cannot read so many.
    """
    ids = tuple(tokenizer(text)["input_ids"])
    if len(ids) >= context:
        raise Unusable(f"{len(ids)} tokens do not fit into the model's context of {context}")
    return ids


def _continuation(text: str, prompt_ids: tuple[int, ...], answer: str, tokenizer: Any, context: int) -> tuple[int, ...]:
    """The tokens that ``answer`` adds to the prompt, as the tokenizer sees both together."""
    together = encode(text + answer_text(answer), tokenizer, context)
    if together[: len(prompt_ids)] != prompt_ids:
        raise Unusable("the tokenizer merges the end of the prompt with the answer")
    return together[len(prompt_ids) :]


def _groups(
    groups: Sequence[Group], tokenizer: Any, context: int, avoid: Sequence[str]
) -> tuple[tuple[Candidates, ...], dict[str, str]]:
    usable, refused = [], {}
    for group in groups:
        try:
            usable.append(_candidates(group, tokenizer, context, avoid))
        except Unusable as reason:
            refused[f"group {group.name}"] = str(reason)
    return tuple(usable), refused


def _candidates(group: Group, tokenizer: Any, context: int, avoid: Sequence[str]) -> Candidates:
    """The group's rows whose answers start with different tokens; the concept's own rows have precedence."""
    rows: dict[str, tuple[tuple[int, ...], int]] = {}
    dropped: dict[str, str] = {}
    owner: dict[int, str] = {}
    for subject in sorted(group.answers, key=lambda subject: subject not in group.about):
        answer, text = group.answers[subject], few_shot(group.ask(subject), avoid)
        try:
            ids = encode(text, tokenizer, context)
            if mentions(text, [answer]):
                raise Unusable(f"the answer {answer!r} stands in the prompt")
            first = _continuation(text, ids, answer, tokenizer, context)[0]
            if first in owner:
                raise Unusable(f"{answer!r} begins like {group.answers[owner[first]]!r}")
        except Unusable as reason:
            dropped[subject] = str(reason)
            continue
        owner[first] = subject
        rows[subject] = (ids, first)
    subjects = tuple(subject for subject in group.answers if subject in rows)
    about = tuple(index for index, subject in enumerate(subjects) if subject in group.about)
    if len(subjects) < SMALLEST_GROUP or not about:
        reasons = "; ".join(f"{subject}: {reason}" for subject, reason in dropped.items())
        raise Unusable(f"{len(about)} of the concept's rows among {len(subjects)} are left ({reasons})")
    return Candidates(
        name=group.name,
        subjects=subjects,
        answers=tuple(group.answers[subject] for subject in subjects),
        prompt_ids=tuple(rows[subject][0] for subject in subjects),
        first_ids=np.array([rows[subject][1] for subject in subjects]),
        about=about,
        dropped=dropped,
    )
