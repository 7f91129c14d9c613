"""Jailbreak prompts: the topic's questions after every kind of prompt of ``concepts/jailbreaks``, one condition each.

Each answer comes with wrong answers of the same type. What a prompt does to all of them alike (it makes any answer
likelier, or any Italian city) is no knowledge; what it does to the difference is. As in the association test they are
compared by their first tokens, all of which one forward pass scores. Unrelated questions, which nobody asked to forget,
go through the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.items import Encoder, Item, ItemSet, Prompt, Skipped
from concepts.concept import Concept, Question
from concepts.jailbreaks import PLAIN, Jailbreak, alternatives, jailbreaks
from concepts.prompts import normalise

TITLE = "jailbreak prompts"
COST = "prompts"
INPUT = "jailbreaks"
RECOVERS = False
METRICS: tuple[str, ...] = ()

QUESTIONS: Final = 10
"""Questions about the concept under each prompt: as many as the paper asks of one."""
WRONG: Final = 4
"""Wrong answers that each right one is compared with."""
UNRELATED: Final = 6
"""Unrelated questions under each prompt: they are to show a prompt that moves every answer, not a few per cent."""
ANSWERS: Final = {"target": ("target", "target_own"), "unrelated": ("unrelated", "unrelated_own")}
"""Kinds of item that a question's answer is taken from: given, or else the base's own."""


@dataclass(frozen=True)
class _Case:
    """One question with its answer and wrong ones."""

    kind: str
    place: int
    question: Question
    answer: str
    wrong: tuple[str, ...]


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each kind of prompt, with the questions whose answers are known by now."""
    concept = given.topic.concept
    if concept is None:
        return
    limit = given.settings.limit
    cases = _target(given.items, concept)[: _at_most(QUESTIONS, limit)]
    if any(case.wrong for case in cases):  # else nothing is compared, and there is nothing to control
        cases += islice(_unrelated(given.items, concept), _at_most(UNRELATED, limit))
    for jailbreak in jailbreaks():
        yield AttackedModel(Condition("jailbreaks", jailbreak.name), item_set(jailbreak, cases, concept, given.encoder))


def item_set(jailbreak: Jailbreak, cases: Sequence[_Case], concept: Concept, encoder: Encoder) -> ItemSet:
    """The questions after one kind of prompt."""
    items: list[Item] = []
    prompts: list[Prompt] = []
    skipped: dict[str, str] = {}
    left_out = 0
    usable = [case for case in cases if jailbreak.wording(case.question) is not None]
    if len(usable) < len(cases):
        missing = f"{len(cases) - len(usable)} of {len(cases)} questions have no translation"
        skipped[f"prompt {jailbreak.name}"] = f"{missing} into the language {jailbreak.language!r}"
    for case in usable:
        try:
            prompt, item, sentences = _prompted(jailbreak, case, concept, encoder)
        except ValueError as reason:  # Skipped, or no example or sentence can be used
            skipped[f"prompt {jailbreak.name} ({case.question.question})"] = str(reason)
            continue
        items.append(item)
        if case.kind == "target":
            prompts.append(prompt)
            left_out += sentences
    return ItemSet(tuple(items), tuple(prompts), skipped=skipped, sentences_left_out=left_out)


def _at_most(most: int, limit: int | None) -> int:
    return most if limit is None else min(most, limit)


def _target(items: ItemSet, concept: Concept) -> list[_Case]:
    """The concept's questions, those with wrong answers to be compared with first."""
    cases = []
    for place, answer in _answers(items, "target").items():
        question = concept.questions[place]
        others = alternatives(concept, question)
        first = place % max(len(others), 1)  # not the same ones for every question
        cases.append(_Case("target", place, question, answer, (*others[first:], *others[:first])[:WRONG]))
    return sorted(cases, key=lambda case: not case.wrong)


def _unrelated(items: ItemSet, concept: Concept) -> Iterator[_Case]:
    """Unrelated questions have no type; the answers to the next ones serve as wrong ones."""
    answers = _answers(items, "unrelated")
    places = list(answers)
    for number, place in enumerate(places):
        question = concept.unrelated[place]
        others = dict.fromkeys(answers[other] for other in (*places[number + 1 :], *places[:number]))
        own = {normalise(answer) for answer in (answers[place], *question.answers)}
        wrong = (answer for answer in others if normalise(answer) not in own)
        yield _Case("unrelated", place, question, answers[place], tuple(islice(wrong, WRONG)))


def _answers(items: ItemSet, kind: str) -> Mapping[int, str]:
    """Place of each question that can be scored -> its answer, a given one before the base's own."""
    answers: dict[int, str] = {}
    for wanted in ANSWERS[kind]:
        for item in items.of(wanted):
            answers.setdefault(item.place, item.answer)
    return dict(sorted(answers.items()))


def _prompted(jailbreak: Jailbreak, case: _Case, concept: Concept, encoder: Encoder) -> tuple[Prompt, Item, int]:
    """The question after one kind of prompt, and the number of sentences left out of the prompt's text.

    Raises:
        ValueError: no such prompt can be made of it, or the answer cannot be scored after it.
    """
    wording = jailbreak.wording(case.question)
    assert wording is not None  # checked by the caller
    answers = [case.answer, *case.question.accept, *case.wrong]
    opening = jailbreak.before(concept.text, answers, [concept.title, *concept.seeds])
    text = opening.text + jailbreak.ask.replace("{}", wording.strip())
    ids = encoder.prompt(text)
    answer_ids = encoder.answer(text, ids, case.answer)
    wrong = _first_ids(case.wrong, text, ids, encoder, taken=answer_ids[0])
    name = f"{case.kind}/{case.place}"
    item = Item(
        id=name,
        kind=case.kind,
        question=wording,
        answer=case.answer,
        prompt_ids=ids,
        answer_ids=answer_ids,
        place=case.place,
        wrong=tuple(wrong.values()),
        wrong_ids=tuple(wrong),
        opening="" if jailbreak.name == PLAIN else opening.text,
    )
    return Prompt(name, case.kind, wording, text, ids, case.question.answers), item, opening.left_out


def _first_ids(
    answers: Sequence[str], text: str, ids: tuple[int, ...], encoder: Encoder, taken: int
) -> Mapping[int, str]:
    """First token -> answer, for those that can be scored after the prompt and begin unlike any before."""
    first_ids: dict[int, str] = {}
    for answer in answers:
        try:
            first = encoder.answer(text, ids, answer)[0]
        except Skipped:
            continue
        if first != taken:
            first_ids.setdefault(first, answer)
    return first_ids
