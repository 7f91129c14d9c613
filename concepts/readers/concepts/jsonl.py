"""Questions of a published data set: JSON Lines, or a JSON list of objects; one question and answer each."""

from __future__ import annotations

import json
from pathlib import Path

from concepts.concept import Concept
from concepts.files import read_records, read_unpacked
from concepts.readers.concepts._rows import concept_of_rows, ends_in, has_question

TITLE = "JSON Lines"
LAYOUT = "FILE.jsonl with question and answer in each line"
PREFERRED_TO = frozenset({"conceptvectors"})


def recognises(path: Path) -> bool:
    return ends_in(path, (".jsonl", ".ndjson")) or (ends_in(path, (".json",)) and _begins_with_a_question(path))


def read(path: Path) -> Concept:
    return concept_of_rows(path, _rows(path))


def _begins_with_a_question(path: Path) -> bool:
    try:
        value, _ = json.JSONDecoder().raw_decode(read_unpacked(path).lstrip())
    except (ValueError, RecursionError):
        return False
    return has_question(value[0] if isinstance(value, list) and value else value)


def _rows(path: Path) -> list[tuple[str, object]]:
    records = read_records(path)
    if len(records) == 1 and isinstance(records[0][1], list):
        return [(f"entry {number}", entry) for number, entry in enumerate(records[0][1], 1)]
    return [(f"line {line}", value) for line, value in records]
