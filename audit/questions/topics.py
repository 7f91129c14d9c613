"""A topic: the subject of an audit's questions. Concepts and skills are topics, as will be other kinds of data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from audit.errors import ConceptError
from audit.questions.exchanged import exchanged_items
from audit.questions.items import (
    Encoder,
    FactGroup,
    Item,
    ItemSet,
    Prompt,
    Skipped,
    check_answers,
    neutral_items,
    with_own_answers,
)
from audit.questions.kinds import Kind, PosedQuestion, kinds, missing_inputs
from concepts.concept import Concept, load_concept
from concepts.files import ConceptFileError
from concepts.jailbreaks import translated


class Topic(Protocol):
    """The subject of a set of questions, independent of any model.

    Attributes:
        name: unique identifier of the topic and its finding; safe as a file name.
        title: display name.
        noun: kind of topic in one word, for titles of metrics.
        concept: the concept whose words locate value vectors and whose questions attacks rephrase; ``None`` if the
            topic is not a concept.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def noun(self) -> str: ...
    @property
    def concept(self) -> Concept | None: ...

    def digest(self) -> str:
        """SHA-256 over all questions."""

    def missing_inputs(self) -> Mapping[str, str]:
        """Inputs of a metric's ``NEEDS`` that this topic cannot provide -> the reason."""

    def items(self, encoder: Encoder, limit: int | None = None) -> ItemSet:
        """All questions in token ids.

        Args:
            limit: maximum number of questions of each kind.
        """

    def with_own_answers(self, items: ItemSet, generated: Mapping[str, str], encoder: Encoder) -> ItemSet:
        """``items`` with the base's own answers added as items to score, if the topic scores them."""

    def check(self, items: ItemSet, generated: Mapping[str, str]) -> dict[str, bool]:
        """Prompt id -> whether the generated answer is right; only prompts that can be checked."""


@dataclass(frozen=True)
class ConceptTopic:
    """A concept's questions of every kind of ``audit.questions.kinds``."""

    concept: Concept
    noun = "concept"

    @property
    def name(self) -> str:
        return self.concept.name

    @property
    def title(self) -> str:
        return self.concept.title

    def digest(self) -> str:
        return hashlib.sha256(self.concept.model_dump_json().encode()).hexdigest()

    def missing_inputs(self) -> Mapping[str, str]:
        return missing_inputs(self.concept)

    def items(self, encoder: Encoder, limit: int | None = None) -> ItemSet:
        return concept_items(self.concept, encoder, limit)

    def with_own_answers(self, items: ItemSet, generated: Mapping[str, str], encoder: Encoder) -> ItemSet:
        return with_own_answers(items, generated, encoder)

    def check(self, items: ItemSet, generated: Mapping[str, str]) -> dict[str, bool]:
        return check_answers(items.written, generated)


def load_concepts(names: Sequence[str], translations: Path | None = None) -> list[ConceptTopic]:
    """The named concepts as topics.

    Args:
        names: library names or files.
        translations: file with the German questions of every concept, for the German jailbreak prompt.

    Raises:
        ConceptError: unknown, unreadable, or given twice.
    """
    topics = []
    for name in names:
        try:
            concept = load_concept(name)
            topics.append(ConceptTopic(concept if translations is None else translated(concept, translations)))
        except ConceptFileError as error:
            raise ConceptError(str(error)) from error
    check_unique_names(topics)
    return topics


def check_unique_names(topics: Sequence[Topic]) -> None:
    """Raises ConceptError if two topics have the same name."""
    names = [topic.name for topic in topics]
    for name in names:
        if names.count(name) > 1:
            raise ConceptError(f"concept {name!r} is given twice.", hint="Name each concept once.")


# ---- a concept's questions in token ids


def concept_items(concept: Concept, encoder: Encoder, limit: int | None = None) -> ItemSet:
    """The concept's questions of every kind, and the neutral text; unusable questions are listed in ``skipped``."""
    avoid = [concept.title, *concept.seeds]
    items: list[Item] = []
    prompts: list[Prompt] = []
    written: list[Prompt] = []
    groups: list[FactGroup] = []
    skipped: dict[str, str] = {}
    for name, kind in kinds().items():
        questions = list(kind.questions(concept, limit))
        if "exchanged" in kind.READS:
            ask = partial(_ask, kind, avoid, concept.examples)
            part = exchanged_items(name, questions, encoder, ask, "written" in kind.READS, kind.MAX_NEW_TOKENS)
            written += part.written
            groups += part.groups
            skipped |= part.skipped
            continue
        for question in questions:
            label = f"{_id(name, question)} ({question.wording})"
            try:
                prompt = _prompt(name, kind, question, encoder, avoid, concept.examples)
            except ValueError as reason:  # Skipped, or every few-shot example mentions the concept
                skipped[label] = str(reason)
                continue
            prompts += [prompt] if "keys" in kind.READS else []
            written += [prompt] if "written" in kind.READS else []
            if "scored" in kind.READS and question.answer is not None:
                try:
                    items.append(_item(prompt, question, question.answer, encoder))
                except Skipped as reason:
                    skipped[label] = str(reason)
    return ItemSet(
        (*items, *neutral_items(encoder, concept.neutral_text)), tuple(prompts), tuple(written), tuple(groups), skipped
    )


def _id(kind: str, question: PosedQuestion) -> str:
    number = "" if question.number is None else f"/{question.number}"
    return f"{kind}/{question.place}{number}"


def _prompt(
    name: str, kind: Kind, question: PosedQuestion, encoder: Encoder, avoid: Sequence[str], examples: int
) -> Prompt:
    text = _ask(kind, avoid, examples, question)
    return Prompt(
        id=_id(name, question),
        kind=name,
        question=question.wording,
        text=text,
        ids=encoder.prompt(text),
        answers=question.answers,
        max_new_tokens=kind.MAX_NEW_TOKENS,
    )


def _ask(kind: Kind, avoid: Sequence[str], examples: int, question: PosedQuestion) -> str:
    return kind.prompt(question.wording, [*avoid, *question.avoid], examples)


def _item(prompt: Prompt, question: PosedQuestion, answer: str, encoder: Encoder) -> Item:
    answer_ids = encoder.answer(prompt.text, prompt.ids, answer)
    return Item(prompt.id, prompt.kind, prompt.question, answer, prompt.ids, answer_ids, question.place)
