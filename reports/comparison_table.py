"""Tests against concepts: one cell a measurement, compared with its base by a sign, a number and two words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.result import AS_IS, Finding, Measurement, Verdict
from reports.formatting import shorten
from reports.wording import VERDICTS, BaseComparison, compare_to_base, title_of

TestKey = tuple[str, str]
"""(metric, condition)."""
COLUMNS = 6
"""Concepts side by side; further concepts continue in another table, so that each fits a sheet of paper."""


@dataclass(frozen=True)
class FindingColumn:
    """One finding: its name, the link to its section, and the link to each of its measurements."""

    name: str
    href: str
    finding: Finding
    measurement_hrefs: Sequence[str]


@dataclass(frozen=True)
class ComparisonCell:
    """``comparison`` is ``None`` if the test has no measurement in this column."""

    comparison: BaseComparison | None
    href: str


@dataclass(frozen=True)
class ComparisonTable:
    """``heads``: (name, link, verdict, its label) a column; ``rows``: (title, unit, cells) a test."""

    heads: Sequence[tuple[str, str, Verdict, str]]
    rows: Sequence[tuple[str, str, Sequence[ComparisonCell]]]


def comparison_tables(columns: Sequence[FindingColumn]) -> list[ComparisonTable]:
    """Rows are tests, columns are concepts: there are more tests than concepts, and a page is taller than wide."""
    groups = [columns[start : start + COLUMNS] for start in range(0, len(columns), COLUMNS)]
    return [_table(group) for group in groups if any(column.finding.measurements for column in group)]


def _table(columns: Sequence[FindingColumn]) -> ComparisonTable:
    tests: dict[TestKey, Measurement] = {}
    for column in columns:
        for measurement in column.finding.measurements:
            tests.setdefault(key_of(measurement), measurement)
    heads = [(c.name, c.href, c.finding.verdict, VERDICTS[c.finding.verdict].label) for c in columns]
    rows = [
        (title_of(test, 80), shorten(test.unit, 60), [_cell(column, key) for column in columns])
        for key, test in tests.items()
    ]
    return ComparisonTable(heads, rows)


def key_of(measurement: Measurement) -> TestKey:
    """A condition that the unit names, the worst of several attacks, may differ between findings."""
    condition = measurement.condition
    return measurement.metric, AS_IS if condition in measurement.unit else condition


def _cell(column: FindingColumn, key: TestKey) -> ComparisonCell:
    for measurement, href in zip(column.finding.measurements, column.measurement_hrefs, strict=True):
        if key_of(measurement) == key:
            return ComparisonCell(compare_to_base(measurement), href)
    return ComparisonCell(None, "")
