"""Report formats: a new file in ``reports/`` is one, chosen by the ending of the output file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit.errors import ResultError
from reports import stored_results
from reports.formats import formats
from reports.html import render
from tests.sample_result import sample, single

ROOT = Path(__file__).resolve().parents[2]


def test_html_and_text_are_formats() -> None:
    assert formats()[".html"] is render
    assert {".html", ".txt"} <= formats().keys()


def test_the_ending_of_the_output_chooses_the_format(tmp_path: Path) -> None:
    sample().write(tmp_path / "result.json")
    for name, start in (("page.html", "<!doctype html>"), ("summary.txt", "Of 2 concepts")):
        stored_results.draw([tmp_path / "result.json"], tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    sample().write(tmp_path / "result.json")
    with pytest.raises(ResultError, match=r"ending '.docx'.*\.html"):
        stored_results.draw([tmp_path], tmp_path / "page.docx")
    single().write(tmp_path / "other" / "result.json")
    with pytest.raises(ResultError, match="index of 2 results is an HTML page"):
        stored_results.draw([tmp_path], tmp_path / "index.txt")
    assert not [path for path in tmp_path.iterdir() if path.name in ("page.docx", "index.txt")]


def test_one_new_file_is_a_format(tmp_path: Path) -> None:
    """In a copy of the package, with nothing else changed, through the command line."""
    for package in ("audit", "concepts", "reports"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", tmp_path)
    (tmp_path / "reports" / "markdown.py").write_text(
        'FILE_ENDINGS = (".md",)\n\n\ndef render(result):\n    return f"# {len(result.findings)} verdicts\\n"\n'
    )
    sample().write(tmp_path / "result.json")
    command = [sys.executable, "-m", "cli", "view", "result.json", "--output", "page.md"]
    shown = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "page.md").read_text() == "# 2 verdicts\n"
