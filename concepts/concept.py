"""What is looked for: a concept with its words, text, questions and typed groups, and the files that hold one.

A concept comes from the library by name (``italy``), from a TOML file of the same form, from a ConceptVectors JSON
(``llama2-7b_dev.json#Italy``; Hong et al. 2024), from an article (``.txt``), or is a bare word. Loads no torch.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from concepts.files import ConceptFileError, read_json, read_text, read_toml
from concepts.neuron import Neuron
from concepts.prompts import mentions, normalise

FEW_QUESTIONS = 5
"""Below this an interval over questions says next to nothing; such a concept is usable but flagged."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Question(_Frozen):
    """One question; ``answer`` is ``None`` where the source gives none (the base model's own answer serves then).

    ``accept`` are further right answers; ``wrong`` are wrong ones of the same type, which tests of recovery compare
    with; ``paraphrases`` ask for the same answer in other words; ``translations`` in other languages (``"de"`` -> the
    question in German).
    """

    question: str = Field(min_length=1)
    answer: str | None = Field(default=None, min_length=1)
    accept: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    translations: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def the_answer_is_not_in_the_question(self) -> Question:
        for wording in self.wordings:
            for answer in self.answers:
                if mentions(wording, [answer]):
                    raise ValueError(f"the answer {answer!r} stands in its own question {wording!r}; ask without it")
        for wrong in self.wrong:
            if any(mentions(wrong, [answer]) or mentions(answer, [wrong]) for answer in self.answers):
                raise ValueError(f"{wrong!r} is listed as wrong and is, or holds, a right answer to {self.question!r}")
        return self

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.question, *self.paraphrases)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that counts as right."""
        return (self.answer, *self.accept) if self.answer is not None else self.accept

    def answered_in(self, text: str) -> bool:
        """Whether ``text`` holds a right answer as whole words, case and punctuation aside.

        Raises:
            ValueError: the question has no answer to compare with.
        """
        if not self.answers:
            raise ValueError(f"no answer is known for {self.question!r}")
        return mentions(text, self.answers)


class Group(_Frozen):
    """One question form with the true answer of each of several subjects of one type, for the association test.

    ``about`` are the subjects that belong to the concept; the others are its controls.
    """

    name: str = Field(min_length=1)
    question: str
    answers: Mapping[str, str]
    about: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def consistent(self) -> Group:
        if self.question.count("{}") != 1:
            raise ValueError("the question needs {} once, where the subject stands")
        if len(self.answers) < 3:
            raise ValueError(f"{len(self.answers)} subjects are too few to tell a truth from its alternatives; give 3")
        _refuse_duplicates("subject", self.about)
        _refuse_duplicates("answer", self.answers.values())
        for subject in self.about:
            if subject not in self.answers:
                raise ValueError(f"about names {subject!r}, which has no answer{_nearest(subject, self.answers)}")
        for subject, answer in self.answers.items():
            if not answer or mentions(self.ask(subject), [answer]):
                raise ValueError(f"the answer {answer!r} for {subject!r} is empty or stands in its own question")
        return self

    def ask(self, subject: str) -> str:
        return self.question.replace("{}", subject)


class KnownVector(_Frozen):
    """A value vector somebody else found; it speaks of ``model`` only."""

    layer: int = Field(ge=0)
    neuron: int = Field(ge=0)
    sign: Literal[1, -1] = 1
    model: str | None = None

    @property
    def place(self) -> Neuron:
        return Neuron(self.layer, self.neuron, self.sign)


class Completion(_Frozen):
    """A sentence of the article in two halves: the first is the prompt, the second what a model recites."""

    first: str
    second: str


class Concept(_Frozen):
    """What is looked for.

    Attributes:
        name: the library name, or a slug of the title; safe as a file name and an HTML anchor.
        title: for people.
        seeds: words of the concept; an example question that mentions one is not shown to the model.
        text: an article about it, empty if there is none.
        questions: what a model that knows the concept answers.
        unrelated: questions that have nothing to do with it, and must stay answered.
        groups: typed questions for the association test.
        two_hop: questions whose answer needs a fact about the concept and one more.
        open: questions answered in sentences; ``accept`` holds words that a knowing answer uses, if any.
        neighbours: questions close to the concept that should survive its removal.
        completions: sentences to continue (ConceptVectors).
        vectors: vectors known for some model.
        answered_by: model -> how many of ``questions`` it was seen to answer rightly, greedily, in the prompt's form.
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
    answered_by: Mapping[str, int] = Field(default_factory=dict)
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
            raise ValueError("give seeds, a text or questions; there is nothing to look for")
        others = [*self.two_hop, *self.open, *self.neighbours]
        asked = [wording for question in [*self.questions, *others] for wording in question.wordings]
        _refuse_duplicates("question", [*asked, *(question.question for question in self.unrelated)])
        _refuse_duplicates("group", [group.name for group in self.groups])
        return self

    @property
    def few_questions(self) -> bool:
        """Whether there are fewer than 5 questions: intervals over them are wide and must say so."""
        return len(self.questions) < FEW_QUESTIONS


# ---- where concepts come from


def load_concept(name_or_path: str) -> Concept:
    """A concept by library name, or from a ``.toml``, ``.json``, ``.json#Concept name`` or ``.txt`` file.

    A file without unrelated questions gets the shipped ones (``concepts/data/unrelated.toml``), less those in whose
    question or answer a seed stands.

    Raises:
        ConceptFileError: naming the file, the field or line, and what to do; for an unknown name the nearest ones.
    """
    path = Path(name_or_path)
    file, is_entry, chosen = name_or_path.partition(".json#")
    if name_or_path in library():
        concept = _from_toml(Path(str(files(__package__) / "library" / f"{name_or_path}.toml")))
    elif is_entry or path.suffix.lower() == ".json":
        concept = _from_conceptvectors(Path(f"{file}.json") if is_entry else path, chosen)
    elif path.suffix.lower() == ".toml":
        concept = _from_toml(path)
    elif path.suffix.lower() == ".txt":
        concept = _from_article(path)
    else:
        raise _unknown(name_or_path)
    if concept.unrelated:
        return concept
    words = [concept.title, *concept.seeds]
    others = [question for question in shipped_unrelated() if not _about(question, words)]
    asked = {normalise(wording) for question in concept.questions for wording in question.wordings}
    return concept.model_copy(
        update={"unrelated": tuple(question for question in others if normalise(question.question) not in asked)}
    )


def _about(question: Question, words: Sequence[str]) -> bool:
    return any(mentions(text, words) for text in (question.question, *question.answers))


def from_word(word: str) -> Concept:
    """A concept of which only the name is known.

    Raises:
        ConceptFileError: no letters in it.
    """
    return _validated({"name": slug(word), "title": word, "seeds": [word]}, f"concept {word!r}")


def library() -> tuple[str, ...]:
    """Names of the concepts that ship with the tool, in alphabetical order."""
    entries = (files(__package__) / "library").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")))


@cache
def shipped_unrelated() -> tuple[Question, ...]:
    """Questions of many topics that ship with the tool; none is about a concept of the library."""
    document = read_toml(Path(str(files(__package__) / "data" / "unrelated.toml")))
    return tuple(Question.model_validate(entry) for entry in document["questions"])


@cache
def neutral_text() -> str:
    """Plain expository text about nothing in particular, for perplexity as a check that a model still works."""
    return (files(__package__) / "data" / "neutral.txt").read_text(encoding="utf-8").strip()


def slug(name: str) -> str:
    """``name`` as a file name: lower-case ASCII letters, digits and hyphens, at most 60 characters.

    Accents are dropped. Where other letters or the length are lost, eight digits of the name's SHA-256 keep two names
    apart (``"東京"`` -> ``concept-9de2f1a4`` or the like).
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    lost = any(letter.isalnum() and not letter.isascii() for letter in plain)
    if words and not lost and len(words) <= 60:
        return words
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{words[:51].strip('-') or 'concept'}-{digest}"


def _from_toml(path: Path) -> Concept:
    document = read_toml(path)
    if "name" in document:
        raise ConceptFileError("field name: the file's own name is the concept's name.", where=str(path))
    return _validated({"name": slug(path.stem), **document}, str(path))


def _from_article(path: Path) -> Concept:
    text = read_text(path).strip()
    if not text:
        raise ConceptFileError("holds no text.", where=str(path), hint="Give an article about the concept.")
    return _validated({"name": slug(path.stem), "title": path.stem, "text": text}, str(path))


def _from_conceptvectors(path: Path, chosen: str) -> Concept:
    """The entries named ``chosen`` of a ConceptVectors list; a concept has one entry for each of its vectors."""
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "Concept" in entry for entry in entries):
        raise ConceptFileError(
            "is not a list of ConceptVectors entries (objects with a field Concept).",
            where=str(path),
            hint="Write other concepts as TOML.",
        )
    same = [entry for entry in entries if entry["Concept"] == chosen]
    if not same:
        found = f"has no concept {chosen!r}" if chosen else "may hold several concepts"
        names = ", ".join(sorted({str(entry["Concept"]) for entry in entries}))
        raise ConceptFileError(f"{found}; it has: {names}.", where=str(path), hint=f"Pass {path}#NAME.")
    try:
        document = _conceptvectors_document(chosen, same)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConceptFileError(
            f"the entry {chosen!r} is not as ConceptVectors writes it ({error!r}).", where=str(path)
        ) from error
    return _validated(document, f"{path}#{chosen}")


def _conceptvectors_document(name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = entries[0]
    return {
        "name": slug(name),
        "title": name,
        "seeds": [name],
        "text": first["wikipedia_content"],
        "questions": _bare_questions(first["QA"]),
        "unrelated": _bare_questions(first["unrelated_QA"]),
        "completions": [
            {"first": halves["First_half"], "second": halves["Second_half"]} for halves in first["text_completion"]
        ],
        "vectors": [{"layer": entry["Layer"], "neuron": entry["Dim"]} for entry in entries],
    }


def _bare_questions(asked: Iterable[str]) -> list[dict[str, str]]:
    """Questions without answers, each once: the published lists repeat some."""
    return [
        {"question": question} for question in {normalise(question): question.strip() for question in asked}.values()
    ]


def _validated(document: Mapping[str, Any], where: str) -> Concept:
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


def _unknown(name: str) -> ConceptFileError:
    known = library()
    return ConceptFileError(
        f"no concept {name!r}{_nearest(name, known) or '.'}",
        hint=f"Library: {', '.join(known)}. Or pass a .toml, .json#Concept or .txt file.",
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.lower(), {entry.lower(): entry for entry in known}, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def resembling(name: str) -> str:
    """The library's concepts whose names are nearest to ``name``, as the end of a sentence; empty if none is near."""
    return _nearest(name, library())


def _refuse_duplicates(kind: str, texts: Iterable[str]) -> None:
    for text, count in Counter(normalise(text) for text in texts).items():
        if count > 1:
            raise ValueError(f"the {kind} {text!r} stands there {count} times; keep one")
