"""Typed groups of questions (the capital of each country): the first token of each answer, after each question."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "Typed groups of questions"
ORDER = 6
READS = frozenset({"first_tokens"})
INPUT = "groups"
ABSENT = "the concept {title} has no typed groups of questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return bool(concept.groups)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    """All rows of all groups. ``limit`` does not apply: omitting rows of a group would change the test."""
    for group in concept.groups:
        for place, (subject, answer) in enumerate(group.answers.items()):
            about = subject in group.about
            yield PosedQuestion(
                place, group.ask(subject), answer, (answer,), group=group.name, subject=subject, about=about
            )
