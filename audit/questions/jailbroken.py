"""A concept's questions under every kind of jailbreak prompt, as items to score.

Beside each answer stand wrong answers of the same type. What a prompt does to all alike (it makes any answer likelier,
or any Italian city) is no knowledge; what it does to the difference is. As in the association test they are compared by
their first tokens, all of which one forward pass scores. Unrelated questions, which nobody asked to forget, go through
the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from audit.questions.items import Item, ItemSet, Kind, QuestionKind, Unusable, encode, ids_of_answer
from concepts.concept import Concept, Question
from concepts.jailbreaks import Jailbreak, alternatives, jailbreaks
from concepts.prompts import normalise

QUESTIONS = 10
"""Questions about the concept under each prompt: as many as the paper asks of one."""
WRONG = 4
"""Wrong answers beside each right one."""
UNRELATED = 6
"""Unrelated questions under each prompt: they are to show a prompt that moves every answer, not a few per cent."""

SCORED: Mapping[QuestionKind, tuple[Kind, ...]] = {
    "target": ("target", "target_own"),
    "unrelated": ("unrelated", "unrelated_own"),
}
"""Where a question's answer is taken from: given, or else the base's own."""


@dataclass(frozen=True)
class Jailbroken(Item):
    """An answer under a jailbreak prompt; its ``kind`` is ``"jailbreak"``.

    Attributes:
        jailbreak: name of the prompt kind.
        asked: whether the question is about the concept.
        place: of the question among those of its kind, the same under every prompt.
        wrong: wrong answers of the same type; none where no other answer of its type is known.
        wrong_ids: their first tokens, which differ from each other and from the answer's.
        opening: what stands before the question; items that share it are computed together.
        left_out: sentences left out of the opening because they hold one of the answers, right or wrong.
    """

    jailbreak: str
    asked: QuestionKind
    place: int
    wrong: tuple[str, ...]
    wrong_ids: tuple[int, ...]
    opening: str
    left_out: int


@dataclass(frozen=True)
class _Asked:
    """One question with its answer and wrong ones."""

    kind: QuestionKind
    place: int
    question: Question
    answer: str
    wrong: tuple[str, ...]


def with_jailbreaks(
    items: ItemSet, concept: Concept, tokenizer: Any, context: int, limit: int | None = None
) -> ItemSet:
    """``items`` and the same questions under every kind of prompt, as far as their answers are known by now.

    Args:
        items: as ``item_set`` gave them; with the base's own answers, questions without a given one are asked too.
        limit: at most this many questions of each kind, and never more than ``QUESTIONS`` and ``UNRELATED``.
    """
    asked = _target(items, concept)[: _least(QUESTIONS, limit)]
    if any(question.wrong for question in asked):  # else nothing is compared, and there is nothing to control
        asked += islice(_unrelated(items, concept), _least(UNRELATED, limit))
    added: list[Item] = []
    refused = dict(items.refused)
    for jailbreak in jailbreaks():
        askable = [question for question in asked if jailbreak.wording(question.question) is not None]
        if len(askable) < len(asked):
            lacking = f"{len(asked) - len(askable)} of {len(asked)} questions have no translation"
            refused[f"prompt {jailbreak.name}"] = f"{lacking} into the language {jailbreak.language!r}"
        for question in askable:
            try:
                added.append(_under(jailbreak, question, concept, tokenizer, context))
            except ValueError as reason:  # Unusable, or no example or sentence can be used
                refused[f"prompt {jailbreak.name} ({question.question.question})"] = str(reason)
    return replace(items, items=(*items.items, *added), refused=refused)


def _least(most: int, limit: int | None) -> int:
    return most if limit is None else min(most, limit)


def _target(items: ItemSet, concept: Concept) -> list[_Asked]:
    """The concept's questions, those first that have wrong answers to be compared with."""
    asked = []
    for place, answer in _answers(items, "target").items():
        question = concept.questions[place]
        others = alternatives(concept, question)
        first = place % max(len(others), 1)  # not the same ones for every question
        asked.append(_Asked("target", place, question, answer, (*others[first:], *others[:first])[:WRONG]))
    return sorted(asked, key=lambda question: not question.wrong)


def _unrelated(items: ItemSet, concept: Concept) -> Iterator[_Asked]:
    """Unrelated questions are of no type; the answers to the next ones serve as wrong ones."""
    answers = _answers(items, "unrelated")
    places = list(answers)
    for number, place in enumerate(places):
        question = concept.unrelated[place]
        others = dict.fromkeys(answers[other] for other in (*places[number + 1 :], *places[:number]))
        own = {normalise(answer) for answer in (answers[place], *question.answers)}
        wrong = (answer for answer in others if normalise(answer) not in own)
        yield _Asked("unrelated", place, question, answers[place], tuple(islice(wrong, WRONG)))


def _answers(items: ItemSet, kind: QuestionKind) -> dict[int, str]:
    """Place of each question that can be scored -> its answer, a given one before the base's own."""
    answers: dict[int, str] = {}
    for wanted in SCORED[kind]:
        for item in items.items:
            if item.kind == wanted:
                answers.setdefault(int(item.id.rpartition("/")[2]), item.answer)
    return dict(sorted(answers.items()))


def _under(jailbreak: Jailbreak, asked: _Asked, concept: Concept, tokenizer: Any, context: int) -> Jailbroken:
    """The question under one kind of prompt.

    Raises:
        ValueError: no such prompt can be made of it, or the answer cannot be scored after it.
    """
    wording = jailbreak.wording(asked.question)
    assert wording is not None  # only those that have one are asked
    hidden = [asked.answer, *asked.question.accept, *asked.wrong]
    opening = jailbreak.before(concept.text, hidden, [concept.title, *concept.seeds])
    text = opening.text + jailbreak.ask.replace("{}", wording.strip())
    ids = encode(text, tokenizer, context)
    answer_ids = ids_of_answer(text, ids, asked.answer, tokenizer, context)
    wrong = _first_ids(asked.wrong, text, ids, tokenizer, context, taken=answer_ids[0])
    return Jailbroken(
        id=f"jailbreak/{jailbreak.name}/{asked.kind}/{asked.place}",
        kind="jailbreak",
        question=wording,
        answer=asked.answer,
        prompt_ids=ids,
        answer_ids=answer_ids,
        jailbreak=jailbreak.name,
        asked=asked.kind,
        place=asked.place,
        wrong=tuple(wrong.values()),
        wrong_ids=tuple(wrong),
        opening=opening.text,
        left_out=opening.left_out,
    )


def _first_ids(
    answers: Sequence[str], text: str, ids: tuple[int, ...], tokenizer: Any, context: int, taken: int
) -> dict[int, str]:
    """First token -> answer, for those that can be scored after the prompt and begin unlike any before."""
    found: dict[int, str] = {}
    for answer in answers:
        try:
            first = ids_of_answer(text, ids, answer, tokenizer, context)[0]
        except Unusable:
            continue
        if first != taken:
            found.setdefault(first, answer)
    return found
