"""A concept: its words, text, questions and typed groups; and the library of concepts.

A concept is loaded from the library by name (``italy``) or from a file; ``concepts.readers.concepts`` has one reader
for each layout. A bare word is a concept too. Loads no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from concepts.files import ConceptFileError, read_toml, slug
from concepts.neuron import Neuron
from concepts.plugins import discover
from concepts.prompts import mentions, normalise, states
from concepts.readers import Reader, layout, reader_for

FEW_QUESTIONS = 5
"""With fewer questions an interval over them is too wide to be useful; such a concept is usable but flagged."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Question(_Frozen):
    """One question; ``answer`` is ``None`` where the source gives none (then the base model's own answer is used).

    ``accept`` holds further right answers; ``wrong`` the wrong answers that a data set offers beside the right one;
    ``paraphrases`` ask for the same answer in other words; ``translations`` in other languages (``"de"`` -> the
    question in German); ``alias_wordings`` name the subject in another way; ``two_hop_wordings`` name it by another
    fact about it.

    ``type`` is the type of the answer: questions of one type have answers that a model without the knowledge cannot
    tell apart, e.g. ``"city"``. ``subject`` is what the question is about; questions with the same subject are trained
    or read together. ``prefix`` is the beginning of a sentence that ``answer`` ends (``"The author's father is a"``).
    ``statements`` are such beginnings too, each understood without the question; relearning trains them beside it.
    """

    question: str = Field(min_length=1)
    answer: str | None = Field(default=None, min_length=1)
    accept: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    translations: Mapping[str, str] = Field(default_factory=dict)
    alias_wordings: tuple[str, ...] = ()
    two_hop_wordings: tuple[str, ...] = ()
    type: str | None = Field(default=None, min_length=1)
    subject: str | None = Field(default=None, min_length=1)
    prefix: str = ""
    statements: tuple[str, ...] = ()

    @model_validator(mode="after")
    def question_does_not_give_its_answer_away(self) -> Question:
        for wording in (*self.wordings, *self.alias_wordings, *self.two_hop_wordings, *self.statements):
            for answer in self.answers:
                if mentions(wording, [answer]):
                    raise ValueError(f"the answer {answer!r} is part of its own question {wording!r}; reword it")
        for wrong in self.wrong:
            if any(mentions(wrong, [answer]) or mentions(answer, [wrong]) for answer in self.answers):
                raise ValueError(f"{wrong!r} is listed as wrong but is or contains a right answer to {self.question!r}")
        return self

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.question, *self.paraphrases)

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.answer, *self.accept) if self.answer is not None else self.accept

    def answered_in(self, text: str) -> bool:
        """Whether ``text`` contains a right answer as whole words and does not negate it; see ``prompts.states``.

        Raises:
            ValueError: the question has no answer to compare with.
        """
        if not self.answers:
            raise ValueError(f"no answer is known for {self.question!r}")
        return states(text, self.answers)


class Group(_Frozen):
    """One question template with the true answer for each of several subjects of one type, for the association test.

    ``about`` lists the subjects that belong to the concept; the others are its controls.
    """

    name: str = Field(min_length=1)
    question: str
    answers: Mapping[str, str]
    about: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def consistent(self) -> Group:
        if self.question.count("{}") != 1:
            raise ValueError("the question needs {} once, in place of the subject")
        if len(self.answers) < 3:
            raise ValueError(f"{len(self.answers)} subjects are too few to compare an answer with others; give 3")
        _refuse_duplicates("subject", self.about)
        _refuse_duplicates("answer", self.answers.values())
        for subject in self.about:
            if subject not in self.answers:
                raise ValueError(f"about lists {subject!r}, which has no answer{_nearest(subject, self.answers)}")
        for subject, answer in self.answers.items():
            if not answer or mentions(self.ask(subject), [answer]):
                raise ValueError(f"the answer {answer!r} for {subject!r} is empty or part of its own question")
        return self

    def ask(self, subject: str) -> str:
        return self.question.replace("{}", subject)


class KnownVector(_Frozen):
    """A value vector known from elsewhere; its layer and neuron are places in ``model`` and in no other model."""

    layer: int = Field(ge=0)
    neuron: int = Field(ge=0)
    sign: Literal[1, -1] = 1
    model: str | None = None

    @property
    def place(self) -> Neuron:
        return Neuron(self.layer, self.neuron, self.sign)


class Completion(_Frozen):
    """A sentence of the article in two halves: the first is the prompt, the second its expected continuation."""

    first: str
    second: str


class Concept(_Frozen):
    """A subject whose knowledge is measured.

    Attributes:
        name: the library name, or a slug of the title; safe as a file name and an HTML anchor.
        title: its name in reports.
        seeds: words of the concept; an example question that mentions one is not shown to the model.
        text: an article about the concept; may be empty.
        questions: questions that a model with knowledge of the concept answers.
        unrelated: questions that have nothing to do with the concept and must keep their answers.
        groups: typed questions for the association test.
        two_hop: questions whose answer needs a fact about the concept and one more.
        open: questions answered in sentences; ``accept`` holds words that a knowing answer uses, if any.
        neighbours: questions close to the concept that should survive its removal.
        completions: sentences to continue (ConceptVectors).
        vectors: vectors known for some model.
        not_guessable: the reason why the answers of one type cannot be guessed from their questions; empty if unknown.
        independent: the reason why one fact of a subject does not tell another one; empty if unknown.
        examples: number of solved examples before each question. 0 for a model that was trained without them.
        neutral_text: text for the health of a model, if the shipped English text is unsuitable.
        answered_by: model -> how many of ``questions`` it answers right, by greedy generation in the prompt's form.
        notes: what the reader of a data set left out, in words for the user.
        license: of this file's content.
    """

    name: str
    title: str = Field(min_length=1)
    seeds: tuple[str, ...] = ()
    text: str = ""
    questions: tuple[Question, ...] = ()
    unrelated: tuple[Question, ...] = ()
    groups: tuple[Group, ...] = ()
    two_hop: tuple[Question, ...] = ()
    open: tuple[Question, ...] = ()
    neighbours: tuple[Question, ...] = ()
    completions: tuple[Completion, ...] = ()
    vectors: tuple[KnownVector, ...] = ()
    not_guessable: str = ""
    independent: str = ""
    examples: int = Field(default=3, ge=0, le=3)
    neutral_text: str = ""
    answered_by: Mapping[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    license: str | None = None

    @field_validator("seeds")
    @classmethod
    def seeds_are_words(cls, seeds: tuple[str, ...]) -> tuple[str, ...]:
        _refuse_duplicates("seed", seeds)
        if not all(normalise(seed) for seed in seeds):
            raise ValueError("a seed has no letters")
        return seeds

    @model_validator(mode="after")
    def consistent(self) -> Concept:
        if not (self.seeds or self.text or self.questions):
            raise ValueError("there is nothing to measure; give seeds, a text or questions")
        others = [*self.two_hop, *self.open, *self.neighbours]
        wordings = [wording for question in [*self.questions, *others] for wording in question.wordings]
        _refuse_duplicates("question", [*wordings, *(question.question for question in self.unrelated)])
        _refuse_duplicates("group", [group.name for group in self.groups])
        return self

    @property
    def few_questions(self) -> bool:
        """Whether there are fewer than 5 questions; reports warn that intervals over them are wide."""
        return len(self.questions) < FEW_QUESTIONS


# ---- files and the library


@runtime_checkable
class ConceptReader(Reader[Concept], Protocol):
    """The contract of a file in ``concepts/readers/concepts/``."""


def load_concept(name_or_path: str) -> Concept:
    """A concept by library name, or from a file of any layout in ``concepts/readers/concepts/``.

    A file without unrelated questions gets the shipped ones (``concepts/data/unrelated.toml``), except those whose
    question or answer mentions the title or a seed.

    Raises:
        ConceptFileError: naming the file, the field or line, and what to do; for an unknown name the nearest ones.
    """
    shipped = name_or_path in library()
    path = Path(str(files(__package__) / "library" / f"{name_or_path}.toml")) if shipped else Path(name_or_path)
    readers = discover(f"{__package__}.readers.concepts", ConceptReader)
    reader = reader_for(path, readers)
    if reader is None:
        raise _unknown(name_or_path, readers.values())
    concept = reader.read(path)
    return concept if concept.unrelated else _with_shipped_unrelated(concept)


def _with_shipped_unrelated(concept: Concept) -> Concept:
    words = [concept.title, *concept.seeds]
    others = [question for question in shipped_unrelated() if not _mentions(question, words)]
    own = {normalise(wording) for question in concept.questions for wording in question.wordings}
    unrelated = tuple(question for question in others if normalise(question.question) not in own)
    return concept.model_copy(update={"unrelated": unrelated})


def _mentions(question: Question, words: Sequence[str]) -> bool:
    return any(mentions(text, words) for text in (question.question, *question.answers))


def from_word(word: str) -> Concept:
    """A concept known by its name alone.

    Raises:
        ConceptFileError: the name has no letters.
    """
    return parse_concept({"name": slug(word), "title": word, "seeds": [word]}, f"concept {word!r}")


def library() -> tuple[str, ...]:
    """Names of the concepts that ship with the tool, in alphabetical order."""
    entries = (files(__package__) / "library").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")))


@cache
def shipped_unrelated() -> tuple[Question, ...]:
    """Questions on many topics that ship with the tool; none is about a concept of the library."""
    document = read_toml(Path(str(files(__package__) / "data" / "unrelated.toml")))
    return tuple(Question.model_validate(entry) for entry in document["questions"])


@cache
def neutral_text() -> str:
    """Expository text about everyday things; its perplexity shows whether a model still works."""
    return (files(__package__) / "data" / "neutral.txt").read_text(encoding="utf-8").strip()


def parse_concept(document: Mapping[str, Any], where: str) -> Concept:
    """The concept with the fields of ``document``.

    Raises:
        ConceptFileError: naming ``where`` and the field.
    """
    try:
        return Concept.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        unknown = first["type"] == "extra_forbidden" and len(first["loc"]) == 1
        hint = f"Fields are {', '.join(sorted(set(Concept.model_fields) - {'name'}))}." if unknown else None
        raise ConceptFileError(
            f"field {place}: {message}." if place else f"{message}.", where=where, hint=hint
        ) from error


def _unknown(name: str, readers: Iterable[ConceptReader]) -> ConceptFileError:
    known = library()
    layouts = ", ".join(sorted(layout(reader) for reader in readers))
    return ConceptFileError(
        f"no concept {name!r}{_nearest(name, known) or '.'}",
        hint=f"Library: {', '.join(known)}. Or pass a file: {layouts}.",
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.lower(), {entry.lower(): entry for entry in known}, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def resembling(name: str) -> str:
    """The library's concepts with names similar to ``name``, as the end of a sentence; empty if there are none."""
    return _nearest(name, library())


def _refuse_duplicates(kind: str, texts: Iterable[str]) -> None:
    for text, count in Counter(normalise(text) for text in texts).items():
        if count > 1:
            raise ValueError(f"the {kind} {text!r} is given {count} times; keep one")
