"""The command line: one library call, the right exit code, one line for an error, JSON with --json."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from audit.commands.skill import GuardRequest
from audit.errors import CheckpointError
from audit.result import AuditResult
from tests.sample_guard import guarded
from tests.sample_result import sample
from tests.tiny import write_tiny

run = CliRunner()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the comparison by one that records its arguments and returns a sample result."""
    seen: dict[str, Any] = {}

    def compare(base: Path, unlearned: Path, **arguments: Any) -> AuditResult:
        seen.update(arguments, base=base, unlearned=unlearned)
        return sample()

    monkeypatch.setattr("audit.commands.compare.compare", compare)
    return seen


def test_options_arrive_as_library_arguments(compared: dict[str, Any], tmp_path: Path) -> None:
    line = f"compare a b --concept italy --concept music --seed 7 --batch-size 4 --limit 3 -o {tmp_path}".split()
    assert run.invoke(cli.app, [*line, "--reference", "r", "--attacks", "relearning,jailbreaks"]).exit_code == 0
    assert (compared["reference"], compared["retained"]) == (Path("r"), None)
    assert compared["context"].settings.attacks == "relearning,jailbreaks"
    assert (compared["base"], compared["unlearned"]) == (Path("a"), Path("b"))
    assert compared["request"].concepts == ["italy", "music"]
    settings = compared["context"].settings
    assert (settings.seed, settings.batch_size, settings.limit) == (7, 4, 3)


def test_the_attacks_are_the_quick_ones_unless_others_are_chosen(compared: dict[str, Any], tmp_path: Path) -> None:
    assert run.invoke(cli.app, ["compare", "a", "b", "-o", str(tmp_path)]).exit_code == 0
    assert compared["context"].settings.attacks == "quick"


@pytest.mark.parametrize("more", [[], ["--plan"]], ids=["run", "plan"])
def test_an_unknown_attack_is_an_error_that_lists_the_known_ones(tmp_path: Path, more: list[str]) -> None:
    base = write_tiny(tmp_path / "base")
    line = ["compare", str(base), str(base), "-o", str(tmp_path / "out"), "--attacks", "relerning", *more]
    shown = run.invoke(cli.app, line)
    assert shown.exit_code == 1
    assert "no attack 'relerning'" in shown.stderr
    assert "relearning" in shown.stderr.replace("relerning", "")


def test_a_comparison_leaves_a_result_and_a_report(compared: dict[str, Any], tmp_path: Path) -> None:
    shown = run.invoke(cli.app, ["compare", "a", "b", "-o", str(tmp_path)])
    assert shown.exit_code == 0
    assert AuditResult.read(tmp_path / "result.json") == sample()
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(tmp_path / "report.html") in shown.output.replace("\n", "")


def test_a_comparison_is_stated_where_asked(compared: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "statement.json"
    run.invoke(cli.app, ["compare", "a", "b", "-o", str(tmp_path), "--statement", str(target)])
    stated = json.loads(target.read_text(encoding="utf-8"))["predicate"]["result"]["digest"]["sha256"]
    assert stated == hashlib.sha256((tmp_path / "result.json").read_bytes()).hexdigest()


def test_json_prints_the_result_and_nothing_else(compared: dict[str, Any], tmp_path: Path) -> None:
    shown = run.invoke(cli.app, ["compare", "a", "b", "--json", "-o", str(tmp_path)])
    assert AuditResult.model_validate(json.loads(shown.stdout)) == sample()


def test_a_verdict_named_in_fail_on_ends_with_3(compared: dict[str, Any], tmp_path: Path) -> None:
    verdict = next(sample().verdicts())
    other = "gated" if verdict != "gated" else "present"
    assert run.invoke(cli.app, ["compare", "a", "b", "-o", str(tmp_path), "--fail-on", verdict]).exit_code == 3
    assert run.invoke(cli.app, ["compare", "a", "b", "-o", str(tmp_path), "--fail-on", other]).exit_code == 0


def test_an_unknown_verdict_is_a_usage_error(compared: dict[str, Any]) -> None:
    shown = run.invoke(cli.app, ["compare", "a", "b", "--fail-on", "gone"])
    assert shown.exit_code == 2
    assert "gone" in shown.output
    assert not compared


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "a", "b"],
        ["ablate", "a", "--concept", "italy"],
        ["skill", "a", "--forget", "b", "--retain", "c"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_is_not_ours_is_refused_before_the_work(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"mine": 1}')
    (tmp_path / "file").write_text("mine")
    for target, message in ((tmp_path, "not written by this tool"), (tmp_path / "file", "is a file")):
        shown = run.invoke(cli.app, [*command, "-o", str(target)])
        assert shown.exit_code == 1
        assert message in shown.stderr
    assert (tmp_path / "result.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "report.html").exists()


def test_a_guards_options_arrive_and_its_result_is_written_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def guard_skill(path: Path, request: GuardRequest, **given: Any) -> AuditResult:
        seen.update(given, path=path, request=request)
        return guarded()

    monkeypatch.setattr("audit.commands.skill.guard_skill", guard_skill)
    line = ["skill", "m", "--forget", "f", "--retain", "r", "--retain", "s", "--method", "prune", "--layers", "3,1,3"]
    shown = run.invoke(cli.app, [*line, "--share", "0.1", "--limit", "9", "--save", "g", "-o", str(tmp_path)])
    assert shown.exit_code == 0
    request = seen["request"]
    assert (seen["path"], request.forget, request.retain) == (Path("m"), Path("f"), [Path("r"), Path("s")])
    assert (request.method, request.options["layers"], request.options["share"]) == ("prune", (1, 3), 0.1)
    assert seen["context"].settings.limit == 9
    assert AuditResult.read(tmp_path / "result.json") == guarded()
    assert (tmp_path / "report.html").is_file()
    assert "GATED" in shown.output
    assert "Guard:  g" in shown.output
    as_json = run.invoke(cli.app, [*line, "-o", str(tmp_path), "--json"])
    assert AuditResult.model_validate(json.loads(as_json.stdout)) == guarded()


def failing(*args: Any, **kwargs: Any) -> AuditResult:
    raise CheckpointError("file is empty.", where="a.pt", hint="Copy it again.")


def test_an_error_is_one_line_on_stderr_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.commands.compare.compare", failing)
    shown = run.invoke(cli.app, ["compare", "a.pt", "b.pt"])
    assert shown.exit_code == 1
    assert shown.stderr.strip() == "audit: a.pt: file is empty. Copy it again."
    assert shown.stdout == ""


def test_an_error_is_json_where_json_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.commands.compare.compare", failing)
    shown = run.invoke(cli.app, ["compare", "a.pt", "b.pt", "--json"])
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["error"]["kind"] == "checkpoint"


def test_a_stop_by_a_scheduler_interrupts_as_the_keyboard_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "app", lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(KeyboardInterrupt):
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_interrupting_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> AuditResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("audit.commands.compare.compare", interrupted)
    assert run.invoke(cli.app, ["compare", "a", "b"]).exit_code == 130


def test_a_path_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.safetensors"
    shown = run.invoke(cli.app, ["compare", str(missing), str(missing)])
    assert shown.exit_code == 1
    assert "nothing.safetensors" in shown.stderr


def test_view_lists_draws_and_refuses(tmp_path: Path) -> None:
    sample().write(tmp_path / "one" / "result.json")
    listed = run.invoke(cli.app, ["view", str(tmp_path), "--json"])
    assert len(json.loads(listed.stdout)) == 1
    page = tmp_path / "page.html"
    assert run.invoke(cli.app, ["view", str(tmp_path / "one" / "result.json"), "--output", str(page)]).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "broken.json").write_text("{")
    refused = run.invoke(cli.app, ["view", str(tmp_path / "broken.json"), "--output", str(page)])
    assert refused.exit_code == 1
    assert "broken.json" in refused.stderr


def test_view_writes_figures_for_a_paper(tmp_path: Path) -> None:
    sample().write(tmp_path / "one" / "result.json")
    assert run.invoke(cli.app, ["view", str(tmp_path), "--figures", str(tmp_path / "figures")]).exit_code == 0
    assert (tmp_path / "figures" / "weights.svg").is_file()


def test_version_is_shown() -> None:
    assert run.invoke(cli.app, ["--version"]).output.startswith("unlearning-audit ")


@pytest.mark.parametrize("line", [["--help"], ["compare", "--help"], ["view", "results"]], ids=" ".join)
def test_help_and_view_load_no_torch(line: list[str], tmp_path: Path) -> None:
    sample().write(tmp_path / "results" / "result.json")
    code = (
        f"import atexit, sys, cli; sys.argv = ['audit', *{line!r}]; heavy = {{'torch', 'transformers', 'matplotlib'}}; "
        "atexit.register(lambda: print('loaded:', heavy & set(sys.modules))); cli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent)}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "loaded: set()" in shown.stdout
