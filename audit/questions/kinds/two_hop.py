"""Two-hop questions, answered freely: the answer requires a fact about the concept and one other fact."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import SENTENCE as MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Two-hop questions"
ORDER = 4
READS = frozenset({"written"})
INPUT = "further"
ABSENT = "the concept {title} has no two-hop or open questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.two_hop)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.two_hop[:limit]):
        yield PosedQuestion(place, question.question, question.answer, question.answers, avoid=question.answers)
