"""What the readers of JSON and JSON lines share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from concepts.files import ConceptFileError, read_records, read_unpacked
from concepts.skill import Query, first_problem

Entry = Mapping[str, Any]


def is_json(text: str) -> bool:
    """Whether a text begins as JSON does."""
    return text.lstrip().startswith(("{", "["))


def first_entry(path: Path) -> Entry:
    """The JSON object that a file begins with; empty where it begins with anything else."""
    text = read_unpacked(path).lstrip()
    if not is_json(text):
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_queries(
    path: Path, title: str, fields: frozenset[str], query: Callable[[Entry], dict[str, Any]]
) -> list[Query]:
    """The query of each line.

    Args:
        title: of the layout.
        fields: those that each line must have.
        query: the fields of ``Query`` from the fields of a line.

    Raises:
        ConceptFileError: naming the line that is not JSON, has not all of the fields, or is not a query.
    """
    queries = []
    for line, entry in read_records(path):
        missing = sorted(fields - entry.keys()) if isinstance(entry, dict) else sorted(fields)
        if missing:
            raise ConceptFileError(f"line {line} has no field {missing[0]}, which {title} requires.", where=str(path))
        try:
            queries.append(Query.model_validate(query(entry)))
        except ValidationError as error:
            raise ConceptFileError(f"line {line}, {first_problem(error)}.", where=str(path)) from error
        except (TypeError, AttributeError) as error:
            raise ConceptFileError(
                f"line {line} does not have the layout of {title} ({error}).", where=str(path)
            ) from error
    return queries
