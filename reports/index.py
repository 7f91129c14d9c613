"""The index page of several reports: verdicts and numbers side by side, each linked to its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from audit.result import AuditResult, Finding, Verdict, write_text
from reports.comparison_table import ComparisonTable, FindingColumn, comparison_tables
from reports.formatting import integer, moment, shorten
from reports.html import fill
from reports.measurements import anchors_of
from reports.page import anchors
from reports.tables import Cell, Table, capped, text
from reports.wording import headline, name_of, text_of, weights_summary

MOST_COLUMNS = 24
"""Findings shown side by side; if there are more, the page has only the list."""


@dataclass(frozen=True)
class Entry:
    """A report by its name and its address relative to the index."""

    name: str
    href: str
    result: AuditResult


@dataclass(frozen=True)
class EntryView:
    """``findings``: (verdict, its label, concept, link, reason)."""

    name: str
    href: str
    headline: str
    findings: Sequence[tuple[Verdict, str, str, str, str]]
    facts: Sequence[tuple[str, str]]


def write(path: Path, results: Mapping[str, AuditResult], conclusion: str) -> None:
    """The index of the reports at ``NAME/report.html`` next to ``path``."""
    entries = [Entry(name, f"{quote(name)}/report.html", result) for name, result in results.items()]
    write_text(path, render(entries, conclusion))


def render(entries: Sequence[Entry], conclusion: str = "", unreadable: Sequence[tuple[str, str]] = ()) -> str:
    """The index as a page.

    Args:
        conclusion: lines of text; the first is the page's heading where there are several.
        unreadable: (path, reason) of results that could not be read.
    """
    heading, paragraphs = _conclusion(conclusion, len(entries))
    return fill(
        "index.html",
        heading=heading,
        paragraphs=paragraphs,
        entries=[entry_view(entry) for entry in entries],
        comparisons=side_by_side(entries),
        unreadable=unreadable_table(unreadable),
    )


def _conclusion(conclusion: str, count: int) -> tuple[str, list[str]]:
    lines = [shorten(line, 2_000) for line in conclusion.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines[0], lines[1:]
    return f"{integer(count)} {'audit' if count == 1 else 'audits'}", lines


def entry_view(entry: Entry) -> EntryView:
    result = entry.result
    findings = zip(result.findings, anchors(result.findings), strict=True)
    return EntryView(
        name=shorten(entry.name, 120),
        href=entry.href,
        headline=headline(result),
        findings=[
            (
                finding.verdict,
                text_of(finding).label,
                name_of(finding, 80),
                f"{entry.href}#{anchor}",
                shorten(finding.reason, 600),
            )
            for finding, anchor in findings
        ],
        facts=[
            ("unlearned", shorten(result.subjects.unlearned.path)),
            ("base", shorten(result.subjects.base.path)),
            ("weights", weights_summary(result.weights)),
            ("started", moment(result.run.started)),
        ],
    )


def side_by_side(entries: Sequence[Entry]) -> list[ComparisonTable]:
    """Tests against reports, if there are few enough of them."""
    columns = [column for entry in entries for column in _columns(entry)]
    return comparison_tables(columns) if 0 < len(columns) <= MOST_COLUMNS else []


def _columns(entry: Entry) -> list[FindingColumn]:
    findings = entry.result.findings
    return [
        FindingColumn(
            _name(entry, finding, alone=len(findings) == 1),
            f"{entry.href}#{place}",
            finding,
            [f"{entry.href}#{anchor}" for anchor in anchors_of(finding.measurements, place)],
        )
        for finding, place in zip(findings, anchors(findings), strict=True)
    ]


def _name(entry: Entry, finding: Finding, alone: bool) -> str:
    return shorten(entry.name, 40) if alone else f"{shorten(entry.name, 40)}: {name_of(finding, 40)}"


def unreadable_table(unreadable: Sequence[tuple[str, str]]) -> Table | None:
    rows = [[text(path), Cell(shorten(reason, 600), "", "w")] for path, reason in unreadable]
    return capped("Results that could not be read", ["file", "reason"], rows, len(rows)) if rows else None
