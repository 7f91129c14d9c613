"""Open questions, answered freely in a sentence: right if the sentence contains one of the accepted words."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import SENTENCE as MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import in_sentences as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Open questions"
ORDER = 5
READS = frozenset({"written"})
INPUT = "further"
ABSENT = "the concept {title} has no two-hop or open questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.open)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.open[:limit]):
        yield PosedQuestion(place, question.question, question.answer, question.answers, avoid=question.answers)
