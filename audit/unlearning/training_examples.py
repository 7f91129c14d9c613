"""What to forget and what to hold on to, made from a concept, apart from what the audit will ask.

To forget: other wordings of the concept's questions, and sentences of its text. To retain: general knowledge that
does not mention the concept. No question is among them in the words in which the audit asks it, so that the audit's
numbers speak of the knowledge and not of trained prompts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from audit.models.packing import Example
from concepts.concept import Concept
from concepts.prompts import answer_text, few_shot, mentions, normalise

OPENING: Final = 3
"""Words of a sentence that are given; the rest is what is trained."""


@dataclass(frozen=True)
class Lessons:
    """Examples for an unlearning method."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]


def lessons(concept: Concept) -> Lessons:
    """Examples that unlearn ``concept``; the same concept gives the same examples in the same order."""
    asked = {normalise(question) for question in _audited(concept)}
    questions = [
        (wording, question.answer)
        for question in concept.questions
        for wording in question.paraphrases
        if question.answer is not None
    ]
    general = tomllib.loads(files(__package__).joinpath("general.toml").read_text(encoding="utf-8"))
    held = [(question, answer) for question, answer in general["questions"] if not _about(concept, question, answer)]
    passages = [passage for passage in general["passages"] if not _about(concept, passage)]
    return Lessons(
        forget=(*_as_examples(concept, questions, asked), *_continuations(concept.text)),
        retain=(*_as_examples(concept, held, asked), *_continuations(" ".join(passages))),
    )


def _audited(concept: Concept) -> Iterator[str]:
    """Every question that the audit asks in the words in which it asks it."""
    for question in (*concept.questions, *concept.two_hop, *concept.open, *concept.neighbours, *concept.unrelated):
        yield question.question
    for group in concept.groups:
        yield from (group.ask(subject) for subject in group.answers)


def _as_examples(concept: Concept, questions: list[tuple[str, str]], asked: set[str]) -> Iterator[Example]:
    """Questions in the audit's form, each once, without those that the audit asks itself."""
    seen = set(asked)
    for question, answer in questions:
        if normalise(question) not in seen:
            seen.add(normalise(question))
            yield Example(few_shot(question, concept.seeds), answer_text(answer))


def _continuations(text: str) -> Iterator[Example]:
    """Each sentence as its opening words and the rest, where there is a rest."""
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        words = sentence.split()
        if len(words) > OPENING:
            yield Example(" ".join(words[:OPENING]), " " + " ".join(words[OPENING:]))


def _about(concept: Concept, *texts: str) -> bool:
    return any(mentions(text, (concept.title, *concept.seeds)) for text in texts)
