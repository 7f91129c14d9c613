"""Progress, written paths and errors on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import typer

from audit.errors import CheckpointError
from reports.terminal import BarProgress, LineProgress, print_paths, report_errors, show_progress
from tests.helpers import short_of_memory_on_the_cpu


def test_a_log_gets_one_line_for_each_step_and_each_quarter_of_a_long_step() -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append)
    for done in range(9):
        progress.step("Reading", done, 8)
    progress.step("Comparing")
    progress.step("Comparing")
    assert lines == [
        "Reading",
        "Reading (2 of 8)",
        "Reading (4 of 8)",
        "Reading (6 of 8)",
        "Reading (8 of 8)",
        "Comparing",
    ]


def test_a_long_step_says_what_changes_and_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines: list[str] = []
    progress = LineProgress(lines.append)
    for done in range(13, 25):  # resumed after 12 steps
        now += 4.0
        progress.step("Training", done, 24, f"loss {done / 4:.3g}")
    assert lines == [
        "Training (13 of 24, loss 3.25)",
        "Training (18 of 24, loss 4.5, about 24 s left)",
        "Training (24 of 24, loss 6)",
    ]


def test_an_interruption_says_what_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "Interrupted. Files already written are complete.\n"
    assert report(KeyboardInterrupt("Nothing was saved.")) == 130
    assert capsys.readouterr().err == "Interrupted. Nothing was saved.\n"


def test_a_terminal_gets_one_live_line_that_names_the_current_step() -> None:
    from rich.progress import Progress

    bar = Progress(disable=True)
    progress = BarProgress(bar)
    progress.step("Reading", 3, 8)
    progress.step("Reading", 4, 8)
    (task,) = bar.tasks
    assert (task.description, task.completed, task.total) == ("Reading", 4, 8)
    progress.step("Comparing")
    (task,) = bar.tasks
    assert (task.description, task.total) == ("Comparing", None)


def test_progress_goes_to_stderr_and_nowhere_if_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with show_progress(quiet) as progress:
            progress.step("Quiet" if quiet else "Loud")
    assert capsys.readouterr() == ("", "Loud\n")


def test_paths_are_listed_unless_the_output_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_paths(True, Model=Path("m"))
    print_paths(False, Model=Path("m"), Guard=None)
    assert capsys.readouterr().out == "Model:  m\n"


def report(error: BaseException, as_json: bool = False, debug: bool = False) -> int:
    """The exit code after ``error``."""
    with pytest.raises(typer.Exit) as caught, report_errors(as_json, debug):
        raise error
    return caught.value.exit_code


def test_an_error_of_ours_is_one_line_or_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    error = CheckpointError("file is empty.", where="a.pt", hint="Copy it again.")
    assert report(error) == 1
    assert capsys.readouterr() == ("", "audit: a.pt: file is empty. Copy it again.\n")
    assert report(error, as_json=True) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == error.as_json()
    assert err == ""


def test_any_other_error_is_reported_the_same_way_with_the_way_to_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report(OSError(28, "No space left")) == 1
    assert (
        capsys.readouterr().err
        == "audit: OSError: [Errno 28] No space left Run again with --debug for the traceback.\n"
    )
    assert report(OSError("first line\nsecond line"), as_json=True) == 1
    document = json.loads(capsys.readouterr().out)["error"]
    assert (document["kind"], document["message"]) == ("unexpected", "OSError: first line")


@pytest.mark.parametrize("shortage", [short_of_memory_on_the_cpu, partial(bytearray, 2**62)])
def test_short_memory_is_named_with_what_needs_less(
    shortage: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        shortage()
    assert report(caught.value) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("audit: out of memory.")
    assert "--batch-size" in line


def test_debug_lets_the_error_through_and_exits_pass_unchanged() -> None:
    with pytest.raises(OSError, match="disk"), report_errors(as_json=False, debug=True):
        raise OSError("disk")
    assert report(typer.Exit(3)) == 3
    assert report(KeyboardInterrupt()) == 130
