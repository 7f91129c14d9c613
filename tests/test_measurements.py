"""The tables of docs/ that repeat a benchmark's rows have its numbers, rounded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
STUDY: Final = ("cosine", "L2", "Jaccard", "target BLEU", "target ROUGE-L", "unrelated ROUGE-L", "completion ROUGE-L")
FALLS: Final = ("target fall, nats", "unrelated fall, nats", "perplexity, times", "jailbreak recovery")
TABLES: Final[dict[str, tuple[str, str, tuple[str | None, ...]]]] = {
    "slices": ("measurements", "## Deletions that", ("orders", "simulated", "closed form")),
    "partial": (
        "measurements",
        "## Facts that were not",
        ("method", "listed", "listed say", "unlisted say", "others say", "unlisted nats"),
    ),
    "klom": (
        "measurements",
        "## KLoM of",
        ("models", "questions about", "margin", "margin, retrained", "raw", "KLoM", "null to", "p"),
    ),
    "causal": (
        "measurements",
        "## Vectors that concepts",
        (
            *("concept", "questions", "vectors", "target", "unrelated", "control", "ratio", "p"),
            *("more specific than its control by", "of the way to the floor", "single vectors that carry it", None),
        ),
    ),
    "needle": (
        "measurements",
        "## Needle",
        (
            *("concept", "vectors", "zero: target", "needle: target", "zero: unrelated", "needle: unrelated"),
            *(None, None),
        ),
    ),
    "skill_regions": ("measurements", "## Regions of", ("forget", None, "inside", "others", "left out", "reached")),
    "concepts": ("concepts_study", "# The ConceptVectors", (None, *STUDY, *FALLS)),
}
"""Benchmark -> page, heading, and the key of each column; ``None`` where the cell is in words."""


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = text[text.index(f"{heading}") :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def rows_of(benchmark: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["rows"]
    shown = {"partial": lambda row: row["listed"] > 0, "skill_regions": lambda row: row["split"] == 0}
    return [row for row in rows if shown.get(benchmark, lambda row: True)(row)]


def agrees(cell: str, value: Any) -> bool:
    """Whether the cell's first number is the value, rounded as the cell is; words must be equal."""
    cell = cell.replace("−", "-").strip("*")
    if value is None:
        return cell == "–"
    if isinstance(value, str):
        return cell == value
    number = re.match(r"(?P<below>< )?(?P<number>-?\d+(?:\.(?P<decimals>\d+))?)(?P<percent>%)?", cell)
    assert number is not None, cell
    found, exact = float(number["number"]), value * (100 if number["percent"] else 1)
    if number["below"]:
        return bool(exact < found)
    return bool(abs(exact - found) <= 0.5 * 10 ** -len(number["decimals"] or "") + 1e-9)


@pytest.mark.parametrize("benchmark", TABLES)
def test_a_tables_numbers_are_those_of_its_benchmark(benchmark: str) -> None:
    page, heading, columns = TABLES[benchmark]
    cells, rows = table(page, heading), rows_of(benchmark)
    assert len(cells) == len(rows)
    wrong = [
        (row_cells[0], column, cell, row[column])
        for row_cells, row in zip(cells, rows, strict=True)
        for column, cell in zip(columns, row_cells, strict=True)
        if column is not None and not agrees(cell, row[column])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("cell", "value", "right"),
    [("0.90", 0.896, True), ("0.96 times", 0.976, False), ("9%", 0.0864, True), ("< 0.001", 0.002, False)],
)
def test_a_number_is_compared_as_it_is_rounded(cell: str, value: float, right: bool) -> None:
    assert agrees(cell, value) is right


def test_ratios_of_speed_are_those_of_their_benchmark() -> None:
    speed = {cells[0]: cells[2] for cells in table("measurements", "## Speed and memory")}
    measured = [row["measured"] for row in rows_of("skill_speed")]
    names = ("reading the keys", "the reference's way", "the reference's fit")
    found = [next(cell for name, cell in speed.items() if name.startswith(begin)) for begin in names]
    assert all(map(agrees, found, measured)), (found, measured)
