"""Jailbreak prompts: the topic's questions under each kind of prompt in ``concepts/jailbreaks``, one condition each.

Each right answer is compared with wrong answers of the same type. An effect of the prompt on all of them (any answer,
or any Italian city, becomes likelier) is not evidence of knowledge; an effect on their difference is. As in the
association test, answers are compared by their first tokens, which one forward pass scores. Unrelated questions, which
were not to be forgotten, are asked under the same prompts as a control.
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
LEVEL = "quick"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

QUESTIONS: Final = 10
"""Number of questions about the concept under each prompt, as in the paper."""
WRONG: Final = 4
"""Maximum number of wrong answers for each right one."""
UNRELATED: Final = 6
"""Number of unrelated questions under each prompt; enough to detect a prompt that affects every answer."""
ANSWERS: Final = {"target": ("target", "target_own"), "unrelated": ("unrelated", "unrelated_own")}
"""Kinds of item that provide a question's answer: the given one, else the base's own."""


@dataclass(frozen=True)
class _Case:
    """One question with its right answer and wrong ones."""

    kind: str
    place: int
    question: Question
    answer: str
    wrong: tuple[str, ...]


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each kind of prompt, with the questions whose answers are known."""
    concept = given.topic.concept
    if concept is None:
        return
    limit = given.settings.limit
    cases = _target(given.items, concept)[: _at_most(QUESTIONS, limit)]
    if any(case.wrong for case in cases):  # otherwise nothing is compared, and a control has no use
        cases += islice(_unrelated(given.items, concept), _at_most(UNRELATED, limit))
    for jailbreak in jailbreaks():
        yield AttackedModel(Condition("jailbreaks", jailbreak.name), item_set(jailbreak, cases, concept, given.encoder))


def item_set(jailbreak: Jailbreak, cases: Sequence[_Case], concept: Concept, encoder: Encoder) -> ItemSet:
    """The questions under one kind of prompt."""
    items: list[Item] = []
    prompts: list[Prompt] = []
    skipped: dict[str, str] = {}
    omitted = 0
    usable = [case for case in cases if jailbreak.wording(case.question) is not None]
    if len(usable) < len(cases):
        missing = f"{len(cases) - len(usable)} of {len(cases)} questions have no translation"
        skipped[f"prompt {jailbreak.name}"] = f"{missing} into the language {jailbreak.language!r}"
    for case in usable:
        try:
            prompt, item, sentences = _prompted(jailbreak, case, concept, encoder)
        except ValueError as reason:  # Skipped, or no few-shot example or sentence is usable
            skipped[f"prompt {jailbreak.name} ({case.question.question})"] = str(reason)
            continue
        items.append(item)
        if case.kind == "target":
            prompts.append(prompt)
            omitted += sentences
    return ItemSet(tuple(items), tuple(prompts), skipped=skipped, sentences_left_out=omitted)


def _at_most(most: int, limit: int | None) -> int:
    return most if limit is None else min(most, limit)


def _target(items: ItemSet, concept: Concept) -> list[_Case]:
    """The concept's questions; those with wrong answers come first."""
    cases = []
    for place, answer in _answers(items, "target").items():
        question = concept.questions[place]
        others = alternatives(concept, question)
        first = place % max(len(others), 1)  # vary the wrong answers between questions
        cases.append(_Case("target", place, question, answer, (*others[first:], *others[:first])[:WRONG]))
    return sorted(cases, key=lambda case: not case.wrong)


def _unrelated(items: ItemSet, concept: Concept) -> Iterator[_Case]:
    """The unrelated questions. They have no type, so the answers to the following questions serve as wrong answers."""
    answers = _answers(items, "unrelated")
    places = list(answers)
    for number, place in enumerate(places):
        question = concept.unrelated[place]
        others = dict.fromkeys(answers[other] for other in (*places[number + 1 :], *places[:number]))
        own = {normalise(answer) for answer in (answers[place], *question.answers)}
        wrong = (answer for answer in others if normalise(answer) not in own)
        yield _Case("unrelated", place, question, answers[place], tuple(islice(wrong, WRONG)))


def _answers(items: ItemSet, kind: str) -> Mapping[int, str]:
    """Place of each question with an answer -> that answer; a given one takes precedence over the base's own."""
    answers: dict[int, str] = {}
    for wanted in ANSWERS[kind]:
        for item in items.of(wanted):
            answers.setdefault(item.place, item.answer)
    return dict(sorted(answers.items()))


def _prompted(jailbreak: Jailbreak, case: _Case, concept: Concept, encoder: Encoder) -> tuple[Prompt, Item, int]:
    """The question under one kind of prompt as a prompt and an item, and the number of sentences omitted from its text.

    Raises:
        ValueError: the prompt cannot be built for this question, or the answer cannot be scored after it.
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
    """First token -> answer, for the answers that can be scored after the prompt; one answer for each first token."""
    first_ids: dict[int, str] = {}
    for answer in answers:
        try:
            first = encoder.answer(text, ids, answer)[0]
        except Skipped:
            continue
        if first != taken:
            first_ids.setdefault(first, answer)
    return first_ids
