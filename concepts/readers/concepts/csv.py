"""Questions in a table: CSV with a header, fields separated by commas, semicolons or tabs; a question in each row.

A cell with several texts is a JSON list, or has ``|`` between them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from concepts.concept import Concept
from concepts.files import ConceptFileError, read_unpacked
from concepts.readers.concepts._rows import LISTS, concept_of_rows, ends_in

TITLE = "CSV"
LAYOUT = "FILE.csv with columns question and answer"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return ends_in(path, (".csv", ".tsv"))


def read(path: Path) -> Concept:
    return concept_of_rows(path, _rows(path))


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    """(line at which the row begins, its fields)."""
    text = read_unpacked(path)
    header = text.lstrip().partition("\n")[0]
    table = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), skipinitialspace=True, strict=True
    )
    try:
        for row in table:
            line = table.line_num - sum(str(value).count("\n") for value in row.values())
            if None in row:
                raise ConceptFileError(
                    f"has more fields than the header, from {row[None][0]!r} on.",
                    where=f"{path}, line {line}",
                    hint="Put fields that contain the separator in quotation marks.",
                )
            yield f"line {line}", {name: _value(name, cell) for name, cell in row.items()}
    except csv.Error as error:
        raise ConceptFileError(f"is not CSV: {error}.", where=f"{path}, line {table.line_num}") from error


def _value(column: str, cell: str | None) -> object:
    if cell is None or column.strip().lower() not in LISTS:
        return cell
    if cell.lstrip().startswith("["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            pass
    return [text for text in cell.split("|") if text.strip()]
