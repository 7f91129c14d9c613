"""Tests against concepts: one cell a measurement, with a sign, a number and a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.result import Finding, Measurement, Verdict
from reports.formatting import shorten
from reports.wording import VERDICTS, BaseComparison, compare_to_base

COLUMNS = 6
"""Concepts side by side; more of them continue in a further block, so that the matrix fits a sheet of paper."""


@dataclass(frozen=True)
class Column:
    """One finding: its name, where it is told in full, and the anchor of each of its measurements."""

    name: str
    href: str
    finding: Finding
    anchors: Sequence[str]


@dataclass(frozen=True)
class MatrixCell:
    comparison: BaseComparison | None
    href: str


@dataclass(frozen=True)
class Matrix:
    heads: Sequence[tuple[str, str, Verdict, str]]
    rows: Sequence[tuple[str, str, Sequence[MatrixCell]]]


def matrices(columns: Sequence[Column]) -> list[Matrix]:
    """Rows are tests, columns are concepts: there are more tests than concepts, and a page is taller than wide."""
    blocks = [columns[start : start + COLUMNS] for start in range(0, len(columns), COLUMNS)]
    return [_matrix(block) for block in blocks if any(column.finding.measurements for column in block)]


def _matrix(columns: Sequence[Column]) -> Matrix:
    tests: dict[str, Measurement] = {}
    for column in columns:
        for found in column.finding.measurements:
            tests.setdefault(found.metric, found)
    heads = [(c.name, c.href, c.finding.verdict, VERDICTS[c.finding.verdict].label) for c in columns]
    rows = [
        (shorten(first.title or metric, 80), shorten(first.unit, 60), [_cell(column, metric) for column in columns])
        for metric, first in tests.items()
    ]
    return Matrix(heads, rows)


def _cell(column: Column, metric: str) -> MatrixCell:
    """The measurement of ``metric`` in this column; a test that did not run there has no reading."""
    for found, anchor in zip(column.finding.measurements, column.anchors, strict=True):
        if found.metric == metric:
            return MatrixCell(compare_to_base(found), anchor)
    return MatrixCell(None, "")
