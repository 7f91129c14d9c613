"""verify(): a result as written holds; a changed file, a moved file and an edited field are each named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from audit.commands.compare import compare
from audit.commands.verify import verify
from audit.errors import ResultError
from audit.request import Request, RunContext
from audit.settings import Settings
from tests.tiny import edit, write_tiny

run = CliRunner()
QUICK = RunContext(Settings(limit=4, attacks="none"))
CHANGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and the result of comparing them, with one concept."""
    folder = tmp_path_factory.mktemp("verify")
    base = write_tiny(folder / "base")
    unlearned = edit(base, folder / "unlearned", lambda name, tensor: tensor * 1.1 if name == CHANGED else tensor)
    compare(base, unlearned, request=Request(concepts=["italy"]), context=QUICK).write(folder / "result.json")
    return folder


def edited(folder: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the result after ``change`` to its JSON document."""
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    change(document)
    target.write_text(json.dumps(document), encoding="utf-8")
    return target


def test_a_result_as_written_holds(folder: Path) -> None:
    verification = verify(folder / "result.json", sample=100)
    assert verification.difference is None
    assert len(verification.verified) == 6


def test_weights_that_are_not_finite_do_not_make_a_true_result_fail(folder: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    broken = edit(folder / "base", tmp_path / "nan", lambda its, tensor: tensor / 0 if its == name else tensor)
    compare(folder / "base", broken, context=QUICK).write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json", sample=100).difference is None


def test_a_vocabulary_that_grew_and_another_number_format_hold(folder: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other", seed=1, dtype=torch.bfloat16, vocab_size=336)
    compare(folder / "base", other, context=QUICK).write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json", sample=100).difference is None


def row(document: Any) -> Any:
    return next(entry for entry in document["weights"]["per_tensor"] if entry["name"] == CHANGED)


def unchanged(document: Any) -> None:
    """Hide the one change, counts included."""
    row(document)["changed"] = False
    document["weights"]["changed_tensors"] = 0
    document["weights"]["changed_fraction"] = 0.0


EDITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a verdict": (lambda document: document["findings"][0].update(verdict="removed"), "findings[0].verdict"),
    "a reason": (lambda document: document["findings"][0].update(reason="All gone."), "findings[0].reason"),
    "a count": (lambda document: document["weights"].update(changed_tensors=0), "weights.changed_tensors"),
    "a number": (lambda document: row(document).update(cosine=0.5), f"weights.per_tensor[{CHANGED}].cosine"),
    "a hidden change": (unchanged, f"weights.per_tensor[{CHANGED}].changed"),
    "a list": (lambda document: document["subjects"]["base"].update(parameters=1), "subjects.base.parameters"),
    "a missing row": (lambda document: document["not_checked"].clear(), "not_checked"),
    "a hash": (
        lambda document: document["subjects"]["base"]["files"][0].update(sha256="0" * 64),
        "subjects.base.files[0].sha256",
    ),
    "a digest": (
        lambda document: document["subjects"]["unlearned"].update(tensors_digest="0" * 64),
        "subjects.unlearned.tensors_digest",
    ),
    "a path out of the folder": (
        lambda document: document["subjects"]["base"]["files"][0].update(name="../result.json"),
        "subjects.base.files[0].name",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_field_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    change, field = EDITS[name]
    verification = verify(edited(folder, tmp_path / "result.json", change))
    assert verification.difference is not None
    assert verification.difference.field == field


def test_a_changed_file_is_named_with_both_hashes(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder / "unlearned", tmp_path / "unlearned"))
    assert verify(folder / "result.json", moved={"unlearned": moved}).holds
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    difference = verify(folder / "result.json", moved={"unlearned": moved}).difference
    assert difference is not None
    assert difference.field == "subjects.unlearned.files[0].sha256"
    assert difference.recorded != difference.found


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    difference = verify(folder / "result.json", moved={"base": tmp_path}).difference
    assert difference is not None
    assert difference.recorded == "model.safetensors"
    assert "absent" in difference.found


def test_a_file_that_is_not_a_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResultError, match="not a result"):
        verify(tmp_path / "other.json")


def test_the_command_ends_with_0_or_1_and_names_the_difference(folder: Path, tmp_path: Path) -> None:
    shown = run.invoke(cli.app, ["verify", str(folder / "result.json"), "--quiet", "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["holds"] is True
    forged = edited(folder, tmp_path / "forged.json", EDITS["a verdict"][0])
    shown = run.invoke(cli.app, ["verify", str(forged), "--quiet", "--statement", str(tmp_path / "statement.json")])
    assert shown.exit_code == 1
    assert "findings[0].verdict: recorded removed" in shown.stdout
    assert not (tmp_path / "statement.json").exists()
