"""The facts of the concept, the unit of the verdict: every answer of a type after every question of that type."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.facts import facts_of
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Facts"
ORDER = 6
READS = frozenset({"exchanged", "written"})
INPUT = "facts"
ABSENT = "the concept {title} has no questions with answers"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(facts_of(concept))


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, fact in enumerate(facts_of(concept)[:limit]):
        question = fact.question
        yield PosedQuestion(
            place,
            question.question,
            fact.answer,
            question.answers,
            type=fact.type,
            subject=fact.subject,
            prefix=question.prefix,
        )
