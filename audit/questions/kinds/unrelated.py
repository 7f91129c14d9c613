"""Questions unrelated to the concept, whose answers should survive unlearning: the control of every number."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Unrelated questions"
ORDER = 1
READS = frozenset({"scored", "written", "keys"})
INPUT = "unrelated"
ABSENT = "the concept {title} has no unrelated questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.unrelated)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.unrelated[:limit]):
        yield PosedQuestion(place, question.question, question.answer, question.answers)
