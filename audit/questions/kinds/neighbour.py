"""Questions close to the concept that should survive its removal (the capital of Austria, for Italy), scored."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Neighbouring questions"
ORDER = 3
READS = frozenset({"scored"})
INPUT = "neighbours"
ABSENT = "the concept {title} has no neighbouring questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.neighbours)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.neighbours[:limit]):
        if question.answer is not None:
            yield PosedQuestion(place, question.question, question.answer, question.answers)
