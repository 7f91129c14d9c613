"""The tool's own layout as JSON lines: the fields of ``Query`` on each line, and the checker on the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepts.readers.skills._json import Entry, first_entry, read_queries
from concepts.skill import Skill, parse_skill

TITLE = "the tool's own layout"
LAYOUT = "JSON lines with prompt"
PREFERRED_TO: frozenset[str] = frozenset()
FIELDS = frozenset({"prompt"})


def recognises(path: Path) -> bool:
    return first_entry(path).keys() >= FIELDS


def read(path: Path) -> Skill:
    checker = first_entry(path).get("checker", "text")
    return parse_skill({"checker": checker, "queries": read_queries(path, TITLE, FIELDS, _query)}, path)


def _query(entry: Entry) -> dict[str, Any]:
    return {field: value for field, value in entry.items() if field != "checker"}
