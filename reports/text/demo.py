"""Terminal text of ``audit demo``: the audits of several unlearning methods side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console

from audit.result import AuditResult, Finding
from reports.formatting import number, shorten
from reports.text.layout import printed, table
from reports.text.result import TITLE
from reports.wording import compare_to_base, text_of, title_of


def render_demo(results: Mapping[str, AuditResult], conclusion: str) -> str:
    """``conclusion``, then a table with one column for each of ``results`` (name of the method -> its audit)."""
    return printed(lambda console: _demo(console, results, conclusion))


def _demo(console: Console, results: Mapping[str, AuditResult], conclusion: str) -> None:
    """Rows are tests, columns the base and each method; a test appears if at least one audit measured it."""
    for line in conclusion.splitlines():
        console.print(shorten(line, 2_000))
        console.print()
    columns = {(name, finding.concept): finding for name, result in results.items() for finding in result.findings}
    with_concept = len(columns) > len(results)
    rows = table(["test", "base", *(_column(*key, with_concept) for key in columns)], text_columns=1)
    verdicts = [text_of(finding).label.upper() for finding in columns.values()]
    rows.add_row("Verdict", "", *verdicts, end_section=True)
    for metric, title, base in _tests(columns.values()):
        rows.add_row(title, base, *(_value(finding, metric) for finding in columns.values()))
    console.print(rows)


def _column(name: str, concept: str | None, with_concept: bool) -> str:
    return shorten(f"{name}: {concept}" if with_concept and concept is not None else name, 24)


def _tests(findings: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    """(metric, title, the base's number) of every measured test, in the order of the first finding."""
    tests: dict[str, tuple[str, set[float]]] = {}
    for finding in findings:
        for measurement in finding.measurements:
            if measurement.value is not None:
                _, bases = tests.setdefault(measurement.metric, (title_of(measurement, TITLE), set()))
                bases |= {measurement.base} if measurement.base is not None else set()
    for metric, (title, bases) in tests.items():
        yield metric, title, number(bases.pop()) if len(bases) == 1 else "differs" if bases else "–"


def _value(finding: Finding, metric: str) -> str:
    measurement = next((row for row in finding.measurements if row.metric == metric), None)
    if measurement is None or measurement.value is None:
        return "–"
    return f"{compare_to_base(measurement).sign} {number(measurement.value)}".strip()
