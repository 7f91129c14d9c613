"""Results on disk, as a list and as pages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from audit.errors import ResultError
from audit.result import AuditResult, write_text
from reports import html, index, paper_figures
from reports.formats import format_of
from reports.wording import name_of

RESULT, PAGE = "result.json", "report.html"


@dataclass(frozen=True)
class Row:
    """One result on disk, or the reason why it cannot be read."""

    path: Path
    time: datetime
    result: AuditResult | None = None
    error: str | None = None

    @property
    def page(self) -> Path:
        """Path of its report, which may not exist yet."""
        return self.path.with_name(PAGE) if self.path.name == RESULT else self.path.with_suffix(".html")

    @property
    def verdicts(self) -> list[tuple[str, str, str | None]]:
        """(concept, verdict, kind of hidden knowledge)."""
        findings = self.result.findings if self.result else []
        return [(name_of(finding, 60), finding.verdict, finding.kind) for finding in findings]

    def as_json(self) -> dict[str, Any]:
        subjects = self.result.subjects if self.result else None
        return {
            "result": str(self.path),
            "report": str(self.page) if self.page.is_file() else None,
            "started": self.result.run.started if self.result else None,
            "base": subjects.base.path if subjects else None,
            "unlearned": subjects.unlearned.path if subjects else None,
            "verdicts": [
                {"concept": concept, "verdict": verdict} | ({"kind": kind} if kind else {})
                for concept, verdict, kind in self.verdicts
            ],
            "error": self.error,
        }


# ---- finding results


def list_results(places: Sequence[Path]) -> list[Row]:
    """Every result in ``places`` (files, or folders searched with all their subfolders), newest first.

    Raises:
        ResultError: a place that does not exist.
    """
    rows = [read_row(path) for path in result_files(places)]
    return sorted(rows, key=lambda row: (-row.time.timestamp(), str(row.path)))


def result_files(places: Iterable[Path]) -> list[Path]:
    """The result files of ``places``, each once."""
    paths: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise ResultError(
                "no such file or folder.",
                where=str(place),
                hint="Run audit compare first, or pass the folder of the results.",
            )
        for path in sorted(place.rglob(RESULT)) if place.is_dir() else [place]:
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


def read_row(path: Path) -> Row:
    try:
        result = AuditResult.read(path)
    except ResultError as error:
        return Row(path, _changed(path), error=str(error))
    return Row(path, _finished(result) or _changed(path), result)


def _changed(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return datetime.fromtimestamp(0, UTC)


def _finished(result: AuditResult) -> datetime | None:
    """When the audit ended according to its record; ``None`` if the record is not a time."""
    try:
        stamp = datetime.fromisoformat(result.run.finished)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# ---- writing results, pages and figures


def save(result: AuditResult, folder: Path) -> None:
    """``result.json`` and ``report.html`` in ``folder``; an interrupted write leaves an earlier file as it was."""
    result.write(folder / RESULT)
    write_text(folder / PAGE, html.render(result))


def save_figures(places: Sequence[Path], folder: Path) -> list[Path]:
    """The charts of the newest result among ``places``, as SVG files in ``folder``."""
    (_, newest), *_ = readable(places)
    return paper_figures.save_figures(newest, folder)


def draw(places: Sequence[Path], output: Path) -> None:
    """The report of one result in the format of the ending of ``output``, or an index page of several results.

    Raises:
        ResultError: no result, one that cannot be read, or an ending that no format has.
    """
    rows = readable(places)
    render = format_of(output)
    if len(rows) == 1:
        write_text(output, render(rows[0][1]))
        return
    if render is not html.render:
        raise ResultError(
            f"the index of {len(rows)} results is an HTML page.", where=str(output), hint="Use the ending .html."
        )
    entries = []
    for row, result in rows:
        current_page(row, result)
        address = os.path.relpath(row.page.resolve(), output.resolve().parent)
        entries.append(index.Entry(str(row.path.parent), quote(Path(address).as_posix()), result))
    write_text(output, index.render(entries))


def page_of(places: Sequence[Path]) -> Path:
    """The report of the newest result, next to it; drawn again if it is missing or older than the result.

    Raises:
        ResultError: no readable result is there.
    """
    rows = list_results(places)
    for row in rows:
        if row.result is not None:
            return current_page(row, row.result)
    raise ResultError(rows[0].error if rows and rows[0].error else _nothing(places))


def readable(places: Sequence[Path]) -> list[tuple[Row, AuditResult]]:
    """All results of ``places``.

    Raises:
        ResultError: no result, or one that cannot be read.
    """
    rows = list_results(places)
    if not rows:
        raise ResultError(_nothing(places))
    for row in rows:
        if row.error is not None:
            raise ResultError(row.error)
    return [(row, row.result) for row in rows if row.result is not None]


def current_page(row: Row, result: AuditResult) -> Path:
    if not row.page.is_file() or row.page.stat().st_mtime < row.path.stat().st_mtime:
        write_text(row.page, html.render(result))
    return row.page


def _nothing(places: Iterable[Path]) -> str:
    return f"no {RESULT} below {', '.join(str(place) for place in places)}. Run audit compare first."
