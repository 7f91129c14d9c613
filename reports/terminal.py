"""What commands print besides results: records, written paths, progress, errors. Only ``cli`` imports it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import typer

from reports.formatting import duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class JsonRecord(Protocol):
    def as_json(self) -> Any:
        """The record as JSON values."""


R = TypeVar("R", bound=JsonRecord)


def print_record(record: R, render: Callable[[R], str], as_json: bool) -> None:
    """``record`` as JSON or as text."""
    typer.echo(json.dumps(record.as_json(), indent=1) if as_json else render(record))


def print_paths(as_json: bool, **paths: Path | None) -> None:
    """One line for each path that was written; nothing with ``--json``, whose output is one document."""
    for name, path in paths.items():
        if path is not None and not as_json:
            typer.echo(f"{name + ':':<7} {path}")


def open_in_browser(page: Path) -> None:
    if typer.launch(page.resolve().as_uri()) != 0:
        typer.echo(f"No browser could be started. Open {page} yourself.", err=True)


# ---- errors


@contextmanager
def report_errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Every error as one line (or one JSON document) and its exit code; a traceback only with ``--debug``."""
    from audit.errors import AuditError, UnexpectedError

    try:
        yield
    except typer.Exit:  # a RuntimeError, but not an error
        raise
    except KeyboardInterrupt as interrupt:
        typer.echo(f"Interrupted. {str(interrupt) or 'Files already written are complete.'}", err=True)
        raise typer.Exit(130) from None
    except (AuditError, OSError, MemoryError, RuntimeError) as error:
        if debug:
            raise
        failure = error if isinstance(error, AuditError) else UnexpectedError(error)
        if as_json:
            typer.echo(json.dumps(failure.as_json(), ensure_ascii=False, indent=1))
        else:
            typer.echo(f"audit: {failure}", err=True)
        raise typer.Exit(1) from None


# ---- progress; the classes fit ``audit.progress.Progress``


SHOWN_FROM: Final = 5.0
"""Seconds that must be left for their number to be shown."""


@dataclass
class Pace:
    """How far a long step has come, in words, with the time that it still takes at its pace so far."""

    text: str = ""
    begun: tuple[float, int] = (0.0, 0)

    def words(self, text: str, done: int | None, total: int | None, detail: str) -> str:
        """The units that are done, the detail, and the time that is left; empty where nothing is known."""
        now = time.monotonic()
        if text != self.text:
            self.text, self.begun = text, (now, done or 0)
        if not done or not total:
            return detail
        seconds, units = now - self.begun[0], done - self.begun[1]
        left = seconds / units * (total - done) if units else 0.0
        time_left = f"{duration(left)} left" if left >= SHOWN_FROM else ""
        return ", ".join(part for part in (f"{done} of {total}", detail, time_left) if part)


@dataclass
class BarProgress:
    """One live line that names the current step, with a bar if the number of units is known."""

    bar: Bar
    task: TaskID | None = None
    text: str = ""
    pace: Pace = field(default_factory=Pace)

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        if self.task is None or text != self.text:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.text = self.bar.add_task(text, total=total, units=""), text
        self.bar.update(self.task, completed=done or 0, total=total, units=self.pace.words(text, done, total, detail))


@dataclass
class LineProgress:
    """One line for each new step, and one for each quarter of a long step."""

    write: Callable[[str], object]
    last: tuple[str, int] = ("", -1)
    pace: Pace = field(default_factory=Pace)

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        quarter = 4 * (done or 0) // total if total else 0
        units = self.pace.words(text, done, total, detail)
        if (text, quarter) != self.last:
            self.last = (text, quarter)
            self.write(f"{text} ({units})" if units else text)


@contextmanager
def show_progress(quiet: bool) -> Iterator[BarProgress | LineProgress]:
    """Progress on stderr: a live line on a terminal, plain lines in a log, nothing if ``quiet``."""
    if quiet:
        yield LineProgress(lambda line: None)
    elif not sys.stderr.isatty():
        yield LineProgress(lambda line: typer.echo(line, err=True))
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        words = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[units]}"))
        columns = (SpinnerColumn(), *words, TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield BarProgress(bar)
