"""GSM8K (Cobbe et al. 2021): word problems with worked answers, each ending in ``####`` and a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepts.readers.skills._json import Entry, first_entry, read_queries
from concepts.skill import Skill, parse_skill

TITLE = "GSM8K"
LAYOUT = "JSON lines with question and answer"
PREFERRED_TO = frozenset({"queries"})
FIELDS = frozenset({"question", "answer"})


def recognises(path: Path) -> bool:
    return first_entry(path).keys() >= FIELDS


def read(path: Path) -> Skill:
    return parse_skill({"checker": "number", "queries": read_queries(path, TITLE, FIELDS, _query)}, path)


def _query(entry: Entry) -> dict[str, Any]:
    return {"prompt": entry["question"], "answer": entry["answer"]}
