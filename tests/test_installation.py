"""What an installation gives: modules that start without torch, and a wheel that runs from an empty folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "module", ["cli", "audit.result", "audit.errors", "reports.html", "reports.text", "concepts.concept"]
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    for needed in (
        "cli.py",
        "audit/architectures/llama.toml",
        "concepts/library/italy.toml",
        "concepts/jailbreaks/plain.toml",
        "concepts/data/background.en.tsv.gz",
        "reports/templates/report.html",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import sys; sys.path.insert(0, '../site'); import cli; "
        "assert 'site' in cli.__file__; sys.argv = ['audit', '--help']; cli.main()"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", code], cwd=empty, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "compare" in shown.stdout
