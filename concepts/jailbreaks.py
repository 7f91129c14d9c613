"""Jailbreak prompts, which try to get an answer in spite of unlearning: each kind is one TOML file in ``jailbreaks/``.

``plain`` is the usual prompt; the others put text before the question or use another language (Hong et al. 2024,
section on adversarial robustness; Lynch et al. 2024). The prompt never contains the answer, which must come from the
weights. Pure strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from concepts.concept import Concept, Question
from concepts.files import ConceptFileError, read_json, read_toml
from concepts.prompts import ASK, SHOTS, SPARE_SHOTS, mentions, prefix

PLAIN = "plain"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Opening(BaseModel):
    """The text before a question, and how many sentences of the concept's text were left out of it."""

    model_config = ConfigDict(frozen=True)

    text: str
    left_out: int = 0


class Jailbreak(BaseModel):
    """One kind of prompt.

    Attributes:
        name: the file's name.
        title: for reports.
        opening: the text before the question; ``{examples}`` is replaced by the answered examples, ``{text}`` by text
            about the concept.
        ask: the form of the examples and of the question; ``{}`` is replaced by the question.
        language: of the question; questions without a translation are skipped.
        examples: three examples and spare ones, in the order of use; if empty, the ones shared by all prompts.
        words: about how many words of the concept's text are used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = Field(min_length=1)
    opening: str = "{examples}"
    ask: str = ASK
    language: str = "en"
    examples: tuple[Question, ...] = ()
    words: int = Field(default=120, gt=0)

    @model_validator(mode="after")
    def consistent(self) -> Jailbreak:
        if self.ask.count("{}") != 1 or self.ask != self.ask.rstrip():
            raise ValueError("ask needs {} once, in place of the question, and no space at its end")
        if self.opening.count("{examples}") != 1 or self.opening.count("{text}") > 1:
            raise ValueError("opening needs {examples} once, and {text} at most once")
        if any(example.answer is None for example in self.examples):
            raise ValueError("every example needs its answer")
        return self

    @property
    def informs(self) -> bool:
        """Whether the prompt contains text about the concept; what follows from that need not be in the weights."""
        return "{text}" in self.opening

    def wording(self, question: Question) -> str | None:
        """The question in this prompt's language; ``None`` if it has no translation."""
        return question.question if self.language == "en" else question.translations.get(self.language)

    def before(self, text: str, answers: Sequence[str], avoid: Sequence[str]) -> Opening:
        """The text before a question.

        Args:
            text: about the concept; sentences that contain one of ``answers`` are left out.
            avoid: words that no example may mention.

        Raises:
            ValueError: an example or a sentence is needed and none can be used.
        """
        shots = [(example.question, example.answer or "") for example in self.examples] or [*SHOTS, *SPARE_SHOTS]
        examples = prefix(avoid, shots[: len(SHOTS)], shots[len(SHOTS) :], self.ask)
        kept, left_out = without(text, answers, self.words) if self.informs else ([], 0)
        if self.informs and not kept:
            raise ValueError("there is no text about the concept, or each of its sentences contains the answer")
        filled = self.opening.replace("{examples}", examples).replace("{text}", " ".join(kept))
        return Opening(text=filled.lstrip("\n"), left_out=left_out)


@cache
def jailbreaks() -> tuple[Jailbreak, ...]:
    """All kinds that ship, ``plain`` first, then in alphabetical order."""
    folder = Path(str(files(__package__) / "jailbreaks"))
    paths = sorted(folder.glob("*.toml"), key=lambda path: (path.stem != PLAIN, path.stem))
    return tuple(load_jailbreak(path) for path in paths)


def load_jailbreak(path: Path) -> Jailbreak:
    """One kind from its file.

    Raises:
        ConceptFileError: naming the file and the field.
    """
    try:
        return Jailbreak.model_validate({"name": path.stem, **read_toml(path)})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConceptFileError(f"field {field}: {first['msg']}.", where=str(path)) from error


def without(text: str, answers: Sequence[str], words: int) -> tuple[list[str], int]:
    """The first sentences of ``text`` that contain none of ``answers``, up to about ``words`` words.

    Returns:
        The sentences, and how many others were left out between them.
    """
    kept: list[str] = []
    left_out = 0
    for sentence in filter(None, SENTENCE_END.split(text.strip())):
        if sum(len(done.split()) for done in kept) >= words:
            break
        if mentions(sentence, answers):
            left_out += 1
        else:
            kept.append(sentence)
    return kept, left_out


def translated(concept: Concept, path: Path, language: str = "de") -> Concept:
    """``concept`` with translations of its questions from a JSON file: title -> questions, in the concept's order.

    Raises:
        ConceptFileError: another form, no such title, or a different number of questions than the concept's.
    """
    by_title = read_json(path)
    if not isinstance(by_title, dict) or not all(_is_texts(texts) for texts in by_title.values()):
        raise ConceptFileError("is not an object of concept titles with lists of questions.", where=str(path))
    if concept.title not in by_title:
        raise ConceptFileError(
            f"has no questions on {concept.title!r}; it has: {', '.join(sorted(by_title))}.", where=str(path)
        )
    wordings = by_title[concept.title]
    if len(wordings) != len(concept.questions):
        raise ConceptFileError(
            f"has {len(wordings)} questions on {concept.title!r}; the concept has {len(concept.questions)}.",
            where=str(path),
            hint="Give one for each question of the concept, in its order.",
        )
    questions = tuple(
        question.model_copy(update={"translations": {**question.translations, language: wording.strip()}})
        for question, wording in zip(concept.questions, wordings, strict=True)
    )
    return concept.model_copy(update={"questions": questions})


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
