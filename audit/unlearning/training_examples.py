"""Training examples of a concept, without the questions that the audit asks.

To forget: paraphrases of the concept's questions, and sentences of its text. To retain: general knowledge that does not
mention the concept. No example has the wording of an audited question, so that the audit measures the knowledge and not
the trained prompts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

from audit.models.packing import Example
from audit.questions.kinds import audited_wordings
from concepts.concept import Concept
from concepts.facts import Fact
from concepts.prompts import answer_text, few_shot, mentions, normalise

OPENING: Final = 3
"""Words of a sentence that form the prompt; the others are the answer that is trained."""


@dataclass(frozen=True)
class FactExample(Example):
    """An example that states a fact, for methods that train another answer of its type."""

    fact: Fact = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class TrainingExamples:
    """Examples for an unlearning method."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]


def training_examples(concept: Concept) -> TrainingExamples:
    """Examples to unlearn ``concept``; the same concept gives the same examples in the same order."""
    audited = {normalise(question) for question in audited_wordings(concept)}
    paraphrases = [
        (paraphrase, question.answer)
        for question in concept.questions
        for paraphrase in question.paraphrases
        if question.answer is not None
    ]
    passages = [passage for passage in _general()["passages"] if not _about(concept, passage)]
    return TrainingExamples(
        forget=(*_as_examples(concept, paraphrases, audited), *continuations(concept.text)),
        retain=(*_as_examples(concept, general_questions(concept), audited), *continuations(" ".join(passages))),
    )


def general_questions(concept: Concept) -> list[tuple[str, str]]:
    """Questions of general knowledge with their answers that do not mention the concept."""
    return [(question, answer) for question, answer in _general()["questions"] if not _about(concept, question, answer)]


def _general() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("general.toml").read_text(encoding="utf-8"))


def _as_examples(concept: Concept, questions: list[tuple[str, str]], audited: set[str]) -> Iterator[Example]:
    """Questions in the audit's prompt, each once, without audited ones."""
    seen = set(audited)
    for question, answer in questions:
        if normalise(question) not in seen:
            seen.add(normalise(question))
            yield Example(few_shot(question, concept.seeds, concept.examples), answer_text(answer))


def continuations(text: str) -> Iterator[Example]:
    """Each sentence as its first ``OPENING`` words and the rest; shorter sentences are skipped."""
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        words = sentence.split()
        if len(words) > OPENING:
            yield Example(" ".join(words[:OPENING]), " " + " ".join(words[OPENING:]))


def _about(concept: Concept, *texts: str) -> bool:
    return any(mentions(text, (concept.title, *concept.seeds)) for text in texts)
