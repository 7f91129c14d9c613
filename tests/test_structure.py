"""The house rules that a machine can hold: which way imports go, what starts fast, what the wheel contains."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "cli": {"audit", "concepts", "reports"},
    "reports": {"reports", "audit.result", "audit.errors"},
    "audit": {"audit", "concepts"},
    "concepts": {"concepts"},
}
PROJECT = ("audit", "concepts", "reports", "cli")


def sources() -> list[Path]:
    files = [ROOT / "cli.py"]
    for package in ("audit", "concepts", "reports"):
        files += sorted((ROOT / package).rglob("*.py"))
    return files


def imported_names(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden(package: str, source: str) -> set[str]:
    allowed = MAY_IMPORT[package]
    ours = {name for name in imported_names(source) if name.split(".")[0] in PROJECT}
    return {name for name in ours if not any(name == ok or name.startswith(f"{ok}.") for ok in allowed)}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert forbidden(package, path.read_text(encoding="utf-8")) == set()


def test_a_wrong_import_would_be_noticed() -> None:
    assert forbidden("concepts", "def f():\n    from audit.models.pair import ModelPair") == {
        "audit.models.pair.ModelPair"
    }
    assert forbidden("reports", "from audit.weights.scan import scan") == {"audit.weights.scan.scan"}


def test_only_running_imports_transformers() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(name.split(".")[0] in ("transformers", "transformer_lens") for name in imported_names(path.read_text()))
    }
    assert users == {"audit/models/loading.py"}


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


def test_the_forbidden_word_is_nowhere_in_the_product() -> None:
    texts = [*sources(), *(ROOT / "reports").rglob("*.html"), *(ROOT / "concepts").rglob("*.toml")]
    assert [str(path) for path in texts if "compliant" in path.read_text(encoding="utf-8").lower()] == []
