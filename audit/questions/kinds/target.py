"""Questions about the concept: the answer, if given, is scored; a free answer is generated; key vectors are read."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Questions about the concept"
ORDER = 0
READS = frozenset({"scored", "written", "keys"})
INPUT = "questions"
ABSENT = "the concept {title} has no questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.questions)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.questions[:limit]):
        yield PosedQuestion(place, question.question, question.answer, question.answers)
