"""A skill: queries that need it, how an answer is checked, and the files that hold one.

Read are the tool's own form (TOML, or JSON lines with ``prompt``), GSM8K, HumanEval (also ``.gz``), MBPP, SQuAD and
XQuAD, and plain text with a query on each line; which one it is shows in the content. Loads no torch.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from concepts.concept import slug
from concepts.files import MAX_BYTES, ConceptFileError, read_text, read_toml
from concepts.prompts import normalise

Checker = Literal["number", "text", "choice", "code"]
Document = Mapping[str, Any]
Wording = Annotated[str, Field(min_length=1)]

FINAL = "####"
"""What GSM8K writes before the final number of a worked answer."""

_NUMBER = re.compile(r"-?\d(?:[\d,]*\d)?(?:\.\d+)?")
_LETTER = re.compile(r"^\W*([A-Z])(?:[).:,]|\s*$)|\banswer(?:\s+is)?\s*:?\s*\(?([A-Z])\b")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Query(_Frozen):
    """One prompt that needs the skill.

    ``answer`` is ``None`` where the source gives none; of a choice it is the letter. ``accept`` are further right
    answers. ``tests`` is Python that raises where a program, the prompt continued, is wrong. ``paraphrases`` ask the
    same in other words, ``translations`` in other languages (``"de"`` -> the query in German): a guard of the skill is
    attacked with both.
    """

    prompt: str = Field(min_length=1)
    answer: str | None = None
    accept: tuple[str, ...] = ()
    choices: tuple[str, ...] = Field(default=(), max_length=26)
    tests: str = ""
    paraphrases: tuple[Wording, ...] = ()
    translations: Mapping[str, Wording] = Field(default_factory=dict)


class Skill(_Frozen):
    """What is looked for in key space; ``name`` is a slug of the file's name."""

    name: str
    title: str = Field(min_length=1)
    checker: Checker = "text"
    queries: tuple[Query, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def answers_fit_the_checker(self) -> Skill:
        for number, query in enumerate(self.queries):
            if self.checker == "number" and query.answer is not None and last_number(query.answer) is None:
                raise ValueError(f"query {number}: the answer {query.answer!r} holds no number")
            if self.checker == "choice" and query.answer not in _letters(query):
                raise ValueError(f"query {number}: the answer {query.answer!r} is not the letter of one of its choices")
        return self


@dataclass(frozen=True)
class Splits:
    """Indices of a skill's queries: to fit on, to choose settings and thresholds by, and to report on."""

    fit: tuple[int, ...]
    choose: tuple[int, ...]
    report: tuple[int, ...]


def split(skill: Skill, seed: int = 0) -> Splits:
    """Three equal parts at random (sizes differ by one at most); the same seed gives the same parts.

    Queries of the same prompt, case and punctuation aside, stay together, so that none is reported that was fitted.
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


def right(skill: Skill, query: Query, output: str) -> bool:
    """Whether the model's ``output`` answers ``query`` rightly.

    Raises:
        ValueError: the query has no answer, or its answer is a program, which would have to be run.
    """
    if skill.checker == "code":
        raise ValueError("a program is right if its tests pass; they would have to be run")
    if query.answer is None:
        raise ValueError(f"no answer is known for {query.prompt!r}")
    if skill.checker == "number":
        return last_number(output) == last_number(query.answer)
    if skill.checker == "choice":
        return chosen_letter(output) == query.answer
    return normalise(output) in {normalise(answer) for answer in (query.answer, *query.accept)}


def last_number(text: str) -> Decimal | None:
    """The number after the last ``####`` of a text, or else its last one; ``None`` where there is none."""
    _, marked, final = text.rpartition(FINAL)
    found = _NUMBER.findall(final) if marked else []
    numbers = found[:1] or _NUMBER.findall(text)[-1:]
    return Decimal(numbers[0].replace(",", "")) if numbers else None


def chosen_letter(text: str) -> str | None:
    """The letter that a text opens with (``"(B) Rome"``, ``"B."``) or calls its answer, else ``None``."""
    found = _LETTER.search(text.strip())
    return (found[1] or found[2]) if found else None


def _letters(query: Query) -> tuple[str, ...]:
    return tuple(chr(ord("A") + number) for number in range(len(query.choices)))


# ---- readers


def load_skill(path: str | Path) -> Skill:
    """The skill in a file of any form named above.

    Raises:
        ConceptFileError: naming the file, the line or query, and the field.
    """
    path = Path(path)
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    base = {"name": slug(stem), "title": stem}
    if path.suffix.lower() == ".toml":
        return _validated({**base, **read_toml(path)}, str(path))
    text = _unpacked(path) if path.suffix.lower() == ".gz" else read_text(path)
    if not text.lstrip().startswith(("{", "[")):
        queries = [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
        return _validated({**base, "queries": queries}, str(path))
    return _validated({**base, **_from_json(text, str(path))}, str(path))


def _unpacked(path: Path) -> str:
    try:
        with gzip.open(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConceptFileError(f"unpacks to more than {MAX_BYTES:,} bytes.", where=str(path))
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConceptFileError(f"cannot be unpacked to UTF-8 text ({error}).", where=str(path)) from error


def _from_json(text: str, where: str) -> Document:
    """One JSON document (SQuAD), or one on each line."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _from_lines(_lines(text, where), where)
    if isinstance(document, dict) and "data" in document:
        return _squad(document, where)
    return _from_lines([(1, document)], where)


def _lines(text: str, where: str) -> list[tuple[int, Any]]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found += [(number, json.loads(line))] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ConceptFileError(f"line {number} is not JSON: {error}.", where=where) from error
    return found


def _from_lines(lines: Sequence[tuple[int, Any]], where: str) -> Document:
    """All lines have the form of the first; its fields tell which."""
    first = lines[0][1]
    form = next((form for form in FORMS if isinstance(first, dict) and form.fields <= first.keys()), None)
    if form is None:
        known = "; ".join(f"{form.name}: {', '.join(sorted(form.fields))}" for form in FORMS)
        raise ConceptFileError(
            f"line {lines[0][0]} has the fields of no known form.", where=where, hint=f"Known: {known}."
        )
    queries = []
    for number, entry in lines:
        missing = sorted(form.fields - entry.keys()) if isinstance(entry, dict) else sorted(form.fields)
        if missing:
            raise ConceptFileError(f"line {number} lacks the field {missing[0]} of {form.name}.", where=where)
        try:
            queries.append(Query.model_validate(form.query(entry)))
        except ValidationError as error:
            raise ConceptFileError(f"line {number}, {_first(error)}.", where=where) from error
        except (TypeError, AttributeError) as error:
            raise ConceptFileError(f"line {number} is not as {form.name} writes it ({error}).", where=where) from error
    return {"checker": form.checker(first), "queries": queries}


@dataclass(frozen=True)
class _Form:
    """A file with one query on each line: the fields that tell it, its checker, and a line's query."""

    name: str
    fields: frozenset[str]
    checker: Callable[[Document], str]
    query: Callable[[Document], Document]


def _gsm8k(entry: Document) -> Document:
    return {"prompt": entry["question"], "answer": entry["answer"]}


def _humaneval(entry: Document) -> Document:
    tests = f"{entry['test']}\ncheck({entry['entry_point']})\n"
    return {"prompt": entry["prompt"], "answer": entry.get("canonical_solution"), "tests": tests}


def _mbpp(entry: Document) -> Document:
    return {"prompt": entry["text"], "answer": entry["code"], "tests": "\n".join(entry["test_list"])}


def _own(entry: Document) -> Document:
    return {field: value for field, value in entry.items() if field != "checker"}


FORMS = (
    _Form("HumanEval", frozenset({"prompt", "test", "entry_point"}), lambda _: "code", _humaneval),
    _Form("MBPP", frozenset({"text", "code", "test_list"}), lambda _: "code", _mbpp),
    _Form("GSM8K", frozenset({"question", "answer"}), lambda _: "number", _gsm8k),
    _Form("our own", frozenset({"prompt"}), lambda entry: entry.get("checker", "text"), _own),
)


def _squad(document: Document, where: str) -> Document:
    """The questions of SQuAD or XQuAD, without their contexts."""
    queries = []
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [answer["text"] for answer in asked["answers"]]
                    queries.append(
                        {"prompt": asked["question"], "answer": (answers or [None])[0], "accept": answers[1:]}
                    )
    except (KeyError, TypeError) as error:
        raise ConceptFileError(f"query {len(queries)} is not as SQuAD writes it ({error!r}).", where=where) from error
    return {"checker": "text", "queries": queries}


def _validated(document: Document, where: str) -> Skill:
    try:
        return Skill.model_validate(document)
    except ValidationError as error:
        raise ConceptFileError(f"{_first(error)}.", where=where) from error


def _first(error: ValidationError) -> str:
    """The first thing wrong, with its field."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"field {field}: {problem['msg']}" if field else problem["msg"].removeprefix("Value error, ")
