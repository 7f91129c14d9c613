"""The rows of typed groups that do not belong to the concept (the capital of other countries), as the control."""

from __future__ import annotations

from collections.abc import Iterator

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.prompts import few_shot as prompt

__all__ = ["MAX_NEW_TOKENS", "prompt"]

TITLE = "The same questions about other subjects"
ORDER = 7
READS = frozenset({"exchanged"})
INPUT = "groups"
ABSENT = "the concept {title} has no typed groups of questions"
TRAINABLE = False


def exists(concept: Concept) -> bool:
    return any(set(group.answers) - set(group.about) for group in concept.groups)


def questions(concept: Concept, limit: int | None) -> Iterator[PosedQuestion]:
    """All other rows of all groups. ``limit`` does not apply: omitting rows of a group would change the test."""
    others = [
        (group, subject, answer)
        for group in concept.groups
        for subject, answer in group.answers.items()
        if subject not in group.about
    ]
    for place, (group, subject, answer) in enumerate(others):
        yield PosedQuestion(place, group.ask(subject), answer, (answer,), type=group.name, subject=subject)
