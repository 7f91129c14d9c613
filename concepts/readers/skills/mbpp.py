"""MBPP (Austin et al. 2021): Python programs to write from a sentence, with a list of assertions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepts.readers.skills._json import Entry, first_entry, read_queries
from concepts.skill import Skill, parse_skill

TITLE = "MBPP"
LAYOUT = "JSON lines with text, code and test_list"
PREFERRED_TO = frozenset({"queries"})
FIELDS = frozenset({"text", "code", "test_list"})


def recognises(path: Path) -> bool:
    return first_entry(path).keys() >= FIELDS


def read(path: Path) -> Skill:
    return parse_skill({"checker": "code", "queries": read_queries(path, TITLE, FIELDS, _query)}, path)


def _query(entry: Entry) -> dict[str, Any]:
    return {"prompt": entry["text"], "answer": entry["code"], "tests": "\n".join(entry["test_list"])}
