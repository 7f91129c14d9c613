"""A skill: queries that need it, how an answer is checked, and how the queries are split.

A skill is loaded from a file; ``concepts.readers.skills`` has one reader for each layout. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from concepts.files import ConceptFileError, read_records, slug
from concepts.plugins import discover
from concepts.prompts import normalise
from concepts.readers import Reader, layout, reader_for

Checker = Literal["number", "text", "choice", "code"]
Wording = Annotated[str, Field(min_length=1)]

FINAL = "####"
"""What GSM8K writes before the final number of a worked answer."""

_NUMBER = re.compile(r"-?\d(?:[\d,]*\d)?(?:\.\d+)?")
_LETTER = re.compile(r"^\W*([A-Z])(?:[).:,]|\s*$)|\banswer(?:\s+is)?\s*:?\s*\(?([A-Z])\b")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Query(_Frozen):
    """One prompt that needs the skill.

    ``answer`` is ``None`` where the source gives none; for a multiple choice it is the letter. ``accept`` holds further
    right answers. ``tests`` is Python code that raises an exception if a program (the prompt and its continuation) is
    wrong. ``paraphrases`` ask the same in other words, ``translations`` in other languages (``"de"`` -> the query in
    German): a guard of the skill is attacked with both.
    """

    prompt: str = Field(min_length=1)
    answer: str | None = None
    accept: tuple[str, ...] = ()
    choices: tuple[str, ...] = Field(default=(), max_length=26)
    tests: str = ""
    paraphrases: tuple[Wording, ...] = ()
    translations: Mapping[str, Wording] = Field(default_factory=dict)


class Skill(_Frozen):
    """Queries that need one ability of a model; ``name`` is a slug of the file's name."""

    name: str
    title: str = Field(min_length=1)
    checker: Checker = "text"
    queries: tuple[Query, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def answers_fit_the_checker(self) -> Skill:
        for number, query in enumerate(self.queries):
            if self.checker == "number" and query.answer is not None and last_number(query.answer) is None:
                raise ValueError(f"query {number}: the answer {query.answer!r} contains no number")
            if self.checker == "choice" and query.answer not in _letters(query):
                raise ValueError(f"query {number}: the answer {query.answer!r} is not the letter of one of its choices")
        return self


@dataclass(frozen=True)
class Splits:
    """Indices of a skill's queries: to fit on, to choose settings and thresholds with, and to report on."""

    fit: tuple[int, ...]
    choose: tuple[int, ...]
    report: tuple[int, ...]


def split(skill: Skill, seed: int = 0) -> Splits:
    """Three equal random parts (their sizes differ by one at most); the same seed gives the same parts.

    Queries of the same prompt, ignoring case and punctuation, stay in one part: no query of the fit is reported on.
    """
    prompts = [normalise(query.prompt) or query.prompt for query in skill.queries]
    order = list(dict.fromkeys(prompts))
    shuffled = np.random.default_rng(seed).permutation(len(order))
    part = {order[index]: place % 3 for place, index in enumerate(shuffled)}
    fit, choose, report = (
        tuple(index for index, prompt in enumerate(prompts) if part[prompt] == number) for number in range(3)
    )
    return Splits(fit, choose, report)


# ---- checkers


def is_right(skill: Skill, query: Query, output: str) -> bool:
    """Whether the model's ``output`` is a right answer to ``query``.

    Raises:
        ValueError: the query has no answer, or its answer is a program, whose tests must be run instead.
    """
    if skill.checker == "code":
        raise ValueError("a program is right if its tests pass: run them instead")
    if query.answer is None:
        raise ValueError(f"no answer is known for {query.prompt!r}")
    if skill.checker == "number":
        return last_number(output) == last_number(query.answer)
    if skill.checker == "choice":
        return chosen_letter(output) == query.answer
    return normalise(output) in {normalise(answer) for answer in (query.answer, *query.accept)}


def last_number(text: str) -> Decimal | None:
    """The number after the last ``####`` of a text, or else the last number in it; ``None`` if it has none."""
    _, marked, final = text.rpartition(FINAL)
    marked_numbers = _NUMBER.findall(final) if marked else []
    numbers = marked_numbers[:1] or _NUMBER.findall(text)[-1:]
    return Decimal(numbers[0].replace(",", "")) if numbers else None


def chosen_letter(text: str) -> str | None:
    """The letter that a text begins with (``"(B) Rome"``, ``"B."``) or gives as its answer, else ``None``."""
    match = _LETTER.search(text.strip())
    return (match[1] or match[2]) if match else None


def _letters(query: Query) -> tuple[str, ...]:
    return tuple(chr(ord("A") + number) for number in range(len(query.choices)))


# ---- files


@runtime_checkable
class SkillReader(Reader[Skill], Protocol):
    """The contract of a file in ``concepts/readers/skills/``."""


def load_skill(path: str | Path) -> Skill:
    """The skill in a file of any layout in ``concepts/readers/skills/``.

    Raises:
        ConceptFileError: naming the file, the line or query, and the field.
    """
    path = Path(path)
    readers = discover(f"{__package__}.readers.skills", SkillReader)
    reader = reader_for(path, readers)
    if reader is None:
        raise _unrecognised(path, readers.values())
    return reader.read(path)


def parse_skill(document: Mapping[str, Any], path: Path) -> Skill:
    """The skill with the fields of ``document``; its name and title are the file's, where the document has none.

    Raises:
        ConceptFileError: naming the file and the field.
    """
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    try:
        return Skill.model_validate({"name": slug(stem), "title": stem, **document})
    except ValidationError as error:
        raise ConceptFileError(f"{first_problem(error)}.", where=str(path)) from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a record, with its field."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"field {field}: {problem['msg']}" if field else problem["msg"].removeprefix("Value error, ")


def _unrecognised(path: Path, readers: Iterable[SkillReader]) -> ConceptFileError:
    line, _ = read_records(path)[0]
    known = "; ".join(sorted(layout(reader) for reader in readers))
    return ConceptFileError(f"line {line} has the fields of no known layout.", where=str(path), hint=f"Known: {known}.")
