"""What commands print besides results: records, written paths, progress, errors. Only ``cli`` imports it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

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
    except KeyboardInterrupt:
        typer.echo("Interrupted. Files already written are complete.", err=True)
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


@dataclass
class BarProgress:
    """One live line that names the current step, with a bar if the number of units is known."""

    bar: Bar
    task: TaskID | None = None
    text: str = ""

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        if self.task is None or text != self.text:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.text = self.bar.add_task(text, total=total), text
        self.bar.update(self.task, completed=done or 0, total=total)


@dataclass
class LineProgress:
    """One line for each new step, and one for each quarter of a long step."""

    write: Callable[[str], object]
    last: tuple[str, int] = ("", -1)

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        quarter = 4 * (done or 0) // total if total else 0
        if (text, quarter) != self.last:
            self.last = (text, quarter)
            self.write(f"{text} ({done} of {total})" if done and total else text)


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

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield BarProgress(bar)
