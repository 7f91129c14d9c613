"""HumanEval (Chen et al. 2021): Python functions to complete, with a test that is called on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepts.readers.skills._json import Entry, first_entry, read_queries
from concepts.skill import Skill, parse_skill

TITLE = "HumanEval"
LAYOUT = "JSON lines with prompt, test and entry_point"
PREFERRED_TO = frozenset({"queries"})
FIELDS = frozenset({"prompt", "test", "entry_point"})


def recognises(path: Path) -> bool:
    return first_entry(path).keys() >= FIELDS


def read(path: Path) -> Skill:
    return parse_skill({"checker": "code", "queries": read_queries(path, TITLE, FIELDS, _query)}, path)


def _query(entry: Entry) -> dict[str, Any]:
    tests = f"{entry['test']}\ncheck({entry['entry_point']})\n"
    return {"prompt": entry["prompt"], "answer": entry.get("canonical_solution"), "tests": tests}
