"""The facts of a concept: its questions with an answer.

A fact is the unit of the verdict: it is asked, said and read. Facts come from the questions, and from the concept's own
rows of its typed groups; a group's other rows are controls. A model without the knowledge cannot tell apart the answers
of one type. A fact without a type can be said, but not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from concepts.concept import Concept, Question
from concepts.prompts import mentions, normalise, overlap

FIRST_WORD: Final = re.compile(r"(?:^|[.?!:])\s*\w+")
"""The first word of a sentence has a capital in any case."""
NAME: Final = r"[A-Z](?:['’][A-Z])?[\w-]+"
PROPER_NOUN: Final = re.compile(rf"\b{NAME}(?: (?:(?:of|the|de|da|la|van|von) )*{NAME})*")


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        type: type of the answer; the answers of one type are exchanged with each other. ``None`` if unknown.
        subject: facts with the same subject are always in the same half.
    """

    type: str | None
    subject: str
    question: Question

    @property
    def answer(self) -> str:
        assert self.question.answer is not None  # see ``facts_of``
        return self.question.answer


def facts_of(concept: Concept) -> tuple[Fact, ...]:
    """The facts, in the order of the questions; then rows of groups that are not among the questions.

    A question with the wording of a group's row, also as a paraphrase, is that row: it has the row's subject, and the
    group's name as its type if it has no type.
    """
    rows = {
        normalise(group.ask(subject)): (group.name, subject, Question(question=group.ask(subject), answer=answer))
        for group in concept.groups
        for subject, answer in group.answers.items()
        if subject in group.about
    }
    facts, asked = [], set()
    for question in concept.questions:
        wording = next((each for each in map(normalise, question.wordings) if each in rows), None)
        if question.answer is not None:
            name, row_subject, _ = rows[wording] if wording is not None else (None, question.question, None)
            facts.append(Fact(question.type or name, question.subject or row_subject, question))
        asked |= {normalise(each) for each in question.wordings}
    return (*facts, *(Fact(*row) for wording, row in rows.items() if wording not in asked))


def wrong_answers(fact: Fact, facts: Sequence[Fact]) -> list[str]:
    """Answers of ``facts`` of the same type that neither contain the fact's own nor are contained in it, sorted.

    A sentence that names its own subject is no wrong answer anywhere: it says something true of that subject. There are
    none for a fact without a type.
    """
    if fact.type is None:
        return []
    same = {each.answer for each in facts if each.type == fact.type and not mentions(each.answer, (each.subject,))}
    return sorted(answer for answer in same if not overlap(answer, fact.answer))


def halves(facts: Sequence[Fact], seed: int) -> Mapping[str, int]:
    """Subject -> 0 or 1, at random: each type's facts are divided as evenly as the subjects allow."""
    subjects: dict[str, list[str | None]] = {}
    for fact in facts:
        subjects.setdefault(fact.subject, []).append(fact.type)
    order = list(subjects)
    Random(seed).shuffle(order)
    order.sort(key=lambda subject: -len(subjects[subject]))  # stable: subjects of equal size stay shuffled
    half: dict[str, int] = {}
    excess: dict[str | None, int] = {}  # type -> facts in half 0 minus facts in half 1
    for subject in order:
        balance = sum(excess.get(type_, 0) for type_ in subjects[subject]) or sum(excess.values())
        half[subject] = int(balance > 0)
        for type_ in subjects[subject]:
            excess[type_] = excess.get(type_, 0) + (1 if half[subject] == 0 else -1)
    return half


def subject_in(text: str, known: str = "", names: Sequence[str] = ()) -> str:
    """What ``text`` is about, in its own words; empty if it names nothing.

    This is ``known``, if that is mentioned and is not all of the text. Else it is the longest of the ``names`` that are
    mentioned and of the runs of capitalised words that begin no sentence; one with a capital goes before all without.
    """
    if known != text and (found := _mentioned(text, known)):
        return found
    subjects = [*proper_nouns(text), *filter(None, (_mentioned(text, name) for name in names))]
    return max(subjects, key=lambda subject: (subject[0].isupper(), len(subject)), default="")


def proper_nouns(text: str) -> list[str]:
    """The runs of capitalised words that begin no sentence."""
    return PROPER_NOUN.findall(FIRST_WORD.sub(lambda first: " " * len(first[0]), text))


def _mentioned(text: str, name: str) -> str:
    """``name`` as ``text`` spells it, where it is whole words; else empty."""
    match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) if name else None
    return match[0] if match else ""
