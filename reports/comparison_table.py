"""Tests against concepts: one cell a measurement, compared with its base by a sign, a number and two words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audit.result import AS_IS, Finding, Measurement, Verdict
from reports.formatting import decimals, shorten
from reports.wording import BaseComparison, compare_to_base, text_of, title_of

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
    heads = [(c.name, c.href, c.finding.verdict, text_of(c.finding).label) for c in columns]
    rows = [
        (title_of(test, 80), shorten(test.unit, 60), [_cell(column, key) for column in columns])
        for key, test in tests.items()
    ]
    return ComparisonTable(heads, [*_left(columns), *rows])


def _left(columns: Sequence[FindingColumn]) -> Iterator[tuple[str, str, list[ComparisonCell]]]:
    """The row of the residuals, if a finding has one."""
    if any(column.finding.residual is not None for column in columns):
        yield "How much is left", "0 never knew, 1 the base", [_left_cell(column) for column in columns]


def _left_cell(column: FindingColumn) -> ComparisonCell:
    left = column.finding.residual
    if left is None or left.value is None:
        return ComparisonCell(None, "")
    bounds = f"{' to '.join(map(decimals, left.interval))}, " if left.interval is not None else ""
    where = bounds + shorten(left.condition, 60)
    return ComparisonCell(BaseComparison("", decimals(left.value), repr(left.value), where, "plain"), column.href)


def key_of(measurement: Measurement) -> TestKey:
    """A condition that the unit names, the worst of several attacks, may differ between findings."""
    condition = measurement.condition
    return measurement.metric, AS_IS if condition in measurement.unit else condition


def _cell(column: FindingColumn, key: TestKey) -> ComparisonCell:
    for measurement, href in zip(column.finding.measurements, column.measurement_hrefs, strict=True):
        if key_of(measurement) == key:
            return ComparisonCell(compare_to_base(measurement), href)
    return ComparisonCell(None, "")
