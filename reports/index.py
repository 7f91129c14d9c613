"""One page in front of several reports: verdicts and key numbers side by side, each leading to its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from audit.result import AuditResult, Finding, Verdict, write_text
from reports.formatting import integer, moment, shorten
from reports.html import fill
from reports.matrix import Column, Matrix, matrices
from reports.measurements import anchors_of
from reports.page import anchors
from reports.tables import Cell, Table, capped, text
from reports.wording import VERDICTS, headline, name_of, weights_summary

MOST_COLUMNS = 24
"""Findings set side by side; of more the list is enough."""


@dataclass(frozen=True)
class Entry:
    """A report by its name and its address relative to the index."""

    name: str
    href: str
    result: AuditResult


@dataclass(frozen=True)
class EntryView:
    name: str
    href: str
    headline: str
    findings: Sequence[tuple[Verdict, str, str, str, str]]
    facts: Sequence[tuple[str, str]]


def write(path: Path, results: Mapping[str, AuditResult], conclusion: str) -> None:
    """The index of the reports that lie at ``NAME/report.html`` beside ``path``, written whole or not at all."""
    entries = [Entry(name, f"{quote(name)}/report.html", result) for name, result in results.items()]
    write_text(path, render(entries, conclusion))


def render(entries: Sequence[Entry], conclusion: str = "", unreadable: Sequence[tuple[str, str]] = ()) -> str:
    """The index as a page.

    Args:
        conclusion: lines of text; the first is the page's heading where there are several.
        unreadable: (path, reason) of results that could not be read.
    """
    heading, said = _said(conclusion, len(entries))
    return fill(
        "index.html",
        heading=heading,
        said=said,
        entries=[entry_view(entry) for entry in entries],
        matrices=side_by_side(entries),
        unreadable=unreadable_table(unreadable),
    )


def _said(conclusion: str, count: int) -> tuple[str, list[str]]:
    lines = [shorten(line, 2_000) for line in conclusion.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines[0], lines[1:]
    return f"{integer(count)} {'audit' if count == 1 else 'audits'}", lines


def entry_view(entry: Entry) -> EntryView:
    result = entry.result
    places = anchors(result.findings)
    return EntryView(
        name=shorten(entry.name, 120),
        href=entry.href,
        headline=headline(result),
        findings=[
            (
                found.verdict,
                VERDICTS[found.verdict].label,
                name_of(found, 80),
                f"{entry.href}#{place}",
                shorten(found.reason, 600),
            )
            for found, place in zip(result.findings, places, strict=True)
        ],
        facts=[
            ("unlearned", shorten(result.subjects.unlearned.path)),
            ("base", shorten(result.subjects.base.path)),
            ("weights", weights_summary(result.weights)),
            ("started", moment(result.run.started)),
        ],
    )


def side_by_side(entries: Sequence[Entry]) -> list[Matrix]:
    """Tests against reports, where there are few enough to look at."""
    columns = [column for entry in entries for column in _columns(entry)]
    return matrices(columns) if 0 < len(columns) <= MOST_COLUMNS else []


def _columns(entry: Entry) -> list[Column]:
    findings = entry.result.findings
    return [
        Column(
            _name(entry, found, alone=len(findings) == 1),
            f"{entry.href}#{place}",
            found,
            [f"{entry.href}#{anchor}" for anchor in anchors_of(found.measurements, place)],
        )
        for found, place in zip(findings, anchors(findings), strict=True)
    ]


def _name(entry: Entry, finding: Finding, alone: bool) -> str:
    return shorten(entry.name, 40) if alone else f"{shorten(entry.name, 40)}: {name_of(finding, 40)}"


def unreadable_table(unreadable: Sequence[tuple[str, str]]) -> Table | None:
    rows = [[text(path), Cell(shorten(reason, 600), "", "w")] for path, reason in unreadable]
    return capped("Results that could not be read", ["file", "reason"], rows, len(rows)) if rows else None
