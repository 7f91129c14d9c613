"""Paraphrases of the concept's questions, up to two for each, scored with the question's answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Paraphrases"
ORDER = 2
READS = frozenset({"scored"})
INPUT = "paraphrases"
ABSENT = "no question of the concept {title} has another wording"
TRAINABLE = True
WORDINGS: Final = 2
"""Number of paraphrases of each question that are scored; more cost time and add little."""


def exists(concept: Concept) -> bool:
    return any(question.paraphrases for question in concept.questions)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    for place, question in enumerate(concept.questions[:limit]):
        if question.answer is not None:
            for number, wording in enumerate(question.paraphrases[:WORDINGS]):
                yield PosedQuestion(place, wording, question.answer, question.answers, number)
