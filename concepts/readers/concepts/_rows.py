"""A concept from the rows of a data set, under the field names of published ones (TOFU, MUSE, RWKU, GSM8K, WMDP)."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from concepts.concept import Concept, Question, parse_concept
from concepts.facts import proper_nouns
from concepts.files import ConceptFileError, slug
from concepts.prompts import mentions, normalise
from concepts.skill import first_problem

Row = Mapping[str, Any]

QUESTION: Final = ("question", "prompt", "query", "instruction")
ANSWER: Final = ("answer", "response", "target", "output", "completion")
PREFIX: Final = ("answer_prefix", "prefix")
SUBJECT: Final = ("subject", "author", "name", "person")
TYPE: Final = ("type", "slot", "relation", "property")
PARAPHRASES: Final = ("paraphrased_question", "paraphrases")
ALIAS: Final = ("alias_wordings", "alias_question")
TWO_HOP: Final = ("two_hop_wordings", "two_hop_question")
STATEMENTS: Final = ("statements",)
ACCEPT: Final = ("accept", "aliases", "paraphrased_answer")
WRONG: Final = ("wrong", "perturbed_answer")
UNTYPED: Final = "answer"
"""Type of the questions of a file that gives none: each answer may be the answer to any of its questions."""
_WORKED: Final = re.compile(r"####\s*(\S.*?)\s*$")
"""The result of a worked answer of GSM8K, in its last line."""
LISTS: Final = frozenset((*PARAPHRASES, *ALIAS, *TWO_HOP, *ACCEPT, *WRONG, "choices"))
"""Fields that may hold several texts."""


def ends_in(path: Path, endings: tuple[str, ...]) -> bool:
    """Whether the file's name has one of the endings, compressed or not; the name of a list's entry does not count."""
    return ".json#" not in str(path) and path.name.lower().removesuffix(".gz").endswith(endings)


def has_question(row: object) -> bool:
    """Whether ``row`` is a JSON object with a field for a question."""
    return isinstance(row, dict) and not _fields(row).keys().isdisjoint(QUESTION)


def concept_of_rows(path: Path, rows: Iterable[tuple[str, object]]) -> Concept:
    """The concept with a question for each row; titled after the file.

    A row whose question was asked before, or contains its own answer, is left out; the concept's notes say so.

    Args:
        rows: (place in the file for messages, fields) of each row.

    Raises:
        ConceptFileError: naming the first row without a question or an answer; or no question is left.
    """
    counts: Counter[str] = Counter()
    asked: set[str] = set()
    questions = []
    for place, row in rows:
        question = _question(row, f"{path}, {place}")
        if normalise(question["question"]) in asked:
            counts["rows left out, because an earlier row asks the same question"] += 1
        elif mentions(question["question"], [question["answer"]]):
            counts["rows left out, because their question contains their answer"] += 1
        else:
            usable = _usable(question, asked)
            if usable != question:
                counts[
                    "rows without wordings, prefixes or accepted answers that repeat a question or give it away"
                ] += 1
            asked |= {normalise(wording) for wording in (usable["question"], *usable["paraphrases"])}
            questions.append(_checked(usable, f"{path}, {place}"))
    if not questions:
        raise ConceptFileError("contains no usable question.", where=str(path), hint="Give questions with answers.")
    title = re.sub(r"\.[A-Za-z]+(\.gz)?$", "", path.name)
    notes = tuple(f"{what}: {count}" for what, count in counts.items())
    return parse_concept({"name": slug(title), "title": title, "questions": questions, "notes": notes}, str(path))


# ---- one row


def _fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields that have a value, under their names in lower case."""
    named = {str(name).strip().lower(): value for name, value in row.items()}
    return {name: value for name, value in named.items() if not _empty(value)}


def _empty(value: object) -> bool:
    """Whether a value is absent: pandas writes NaN for an empty cell."""
    return value is None or value in ("", []) or (isinstance(value, str) and not value.strip()) or _is_nan(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _question(row: object, where: str) -> dict[str, Any]:
    """The fields of ``Question``."""
    if not isinstance(row, Mapping):
        raise ConceptFileError("is not a row of fields with a question and an answer.", where=where)
    fields = _fields(row)
    asked = _text(_needed(fields, QUESTION, "question", where), where)
    answer, *further = _answers(fields, where)
    right = [answer, *further, *_texts(fields, ACCEPT, where)]
    prefix = _text(_first(fields, PREFIX, ""), where)
    if prefix and answer.startswith(prefix) and answer != prefix:
        answer = answer.removeprefix(prefix).strip()
    wrong = [*_texts(fields, WRONG, where), *_choices(fields, where)]
    subject = _first(fields, SUBJECT, None)
    return {
        "question": asked,
        "answer": answer,
        "accept": list(dict.fromkeys(right[1:])),
        "wrong": [text for text in wrong if not any(mentions(text, [one]) or mentions(one, [text]) for one in right)],
        "paraphrases": _texts(fields, PARAPHRASES, where),
        "alias_wordings": _texts(fields, ALIAS, where),
        "two_hop_wordings": _texts(fields, TWO_HOP, where),
        "statements": _texts(fields, STATEMENTS, where) or _stated(prefix, asked),
        "type": _text(_first(fields, TYPE, UNTYPED), where),
        "subject": None if subject is None else _text(subject, where),
        "prefix": prefix,
    }


def _stated(prefix: str, question: str) -> list[str]:
    """The prefix, if it names something that the question names, and so can be understood without it."""
    return [prefix] if any(name in question for name in proper_nouns(prefix)) else []


def _answers(fields: Row, where: str) -> list[str]:
    """The answer, and further right ones where the field is a list.

    The answer is the entity where one is marked, the choice that a number or letter names, or the result of a worked
    answer.
    """
    if "entity" in fields:
        return [_text(fields["entity"], where)]
    value = _needed(fields, ANSWER, "answer", where)
    texts = [_text(each, where) for each in (value if isinstance(value, list) else [value])]
    if choices := _choices(fields, where):
        return [_chosen(choices, texts[0], where)]
    results = [match.group(1) if (match := _WORKED.search(text)) else text for text in texts]
    plain = [re.sub(r"(?<=\d),(?=\d{3})", "", text) if _WORKED.search(texts[0]) else text for text in results]
    return list(dict.fromkeys([*results, *plain]))


def _choices(fields: Row, where: str) -> list[str]:
    """The choices of a multiple-choice question, the right one included."""
    choices = fields.get("choices")
    return [_text(choice, where) for choice in choices] if isinstance(choices, list) else []


def _chosen(choices: Sequence[str], answer: str, where: str) -> str:
    """The choice that ``answer`` names by its text, its number from 0, or its letter."""
    if answer in choices:
        return answer
    number = answer.isdecimal() and len(answer) <= 2
    place = int(answer) if number else "abcdefghij".find(answer.lower()) if len(answer) == 1 else -1
    if not 0 <= place < len(choices):
        raise ConceptFileError(
            f"has the answer {answer!r}, which names none of its {len(choices)} choices.", where=where
        )
    return choices[place]


def _usable(question: Mapping[str, Any], asked: set[str]) -> dict[str, Any]:
    """The question without what repeats another one or gives an answer away."""
    taken = asked | {normalise(question["question"])}
    paraphrases = []
    for wording in question["paraphrases"]:
        if normalise(wording) not in taken and not mentions(wording, [question["answer"]]):
            taken = taken | {normalise(wording)}
            paraphrases.append(wording)
    indirect = {
        name: [wording for wording in question[name] if not mentions(wording, [question["answer"]])]
        for name in ("alias_wordings", "two_hop_wordings", "statements")
    }
    wordings = (question["question"], *paraphrases, *(wording for each in indirect.values() for wording in each))
    accept = [answer for answer in question["accept"] if not any(mentions(wording, [answer]) for wording in wordings)]
    prefix = "" if mentions(question["prefix"], [question["answer"]]) else question["prefix"]
    return {**question, **indirect, "paraphrases": paraphrases, "accept": accept, "prefix": prefix}


def _checked(question: Mapping[str, Any], where: str) -> Question:
    try:
        return Question.model_validate(question)
    except ValidationError as error:
        raise ConceptFileError(f"{first_problem(error)}.", where=where) from error


# ---- fields


def _first(fields: Row, names: Sequence[str], otherwise: Any) -> Any:
    return next((fields[name] for name in names if name in fields), otherwise)


def _needed(fields: Row, names: Sequence[str], what: str, where: str) -> Any:
    value = _first(fields, names, None)
    if value is None:
        has = f"; it has {', '.join(fields)}" if fields else ""
        raise ConceptFileError(
            f"has no {what}{has}.", where=where, hint=f"Name the field {', '.join(names[:-1])} or {names[-1]}."
        )
    return value


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ConceptFileError(f"has {json.dumps(value, default=str)[:40]} where a text is expected.", where=where)


def _texts(fields: Row, names: Sequence[str], where: str) -> list[str]:
    """The texts of a field that may be a list, once each."""
    value = _first(fields, names, [])
    texts = [_text(each, where) for each in (value if isinstance(value, list) else [value]) if not _empty(each)]
    return list(dict.fromkeys(texts))
