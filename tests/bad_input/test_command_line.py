"""How a refused input leaves the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from tests.tiny import write_tiny


@pytest.mark.parametrize("kind", ["checkpoint", "incomparable", "model", "concept"])
def test_a_refused_input_exits_with_1_and_one_line_or_one_document(
    tmp_path: Path, model: Path, shipped: Path, kind: str
) -> None:
    arguments = [str(shipped), str(model), "--output", str(tmp_path / "out"), "--quiet"]
    if kind == "checkpoint":
        (model / "model.safetensors").write_bytes(b"")
    elif kind == "incomparable":
        arguments[1] = str(write_tiny(tmp_path / "deeper", num_hidden_layers=3))
    elif kind == "model":
        (model / "config.json").write_text("{")
    else:
        arguments += ["--concept", "nonsense"]
    shown = CliRunner().invoke(cli.app, ["compare", *arguments])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert len(shown.stderr.strip().splitlines()) == 1
    printed = CliRunner().invoke(cli.app, ["compare", *arguments, "--json"])
    assert printed.exit_code == 1
    assert json.loads(printed.stdout)["error"].keys() == {"kind", "message", "where", "hint"}
    assert json.loads(printed.stdout)["error"]["kind"] == kind
    assert not (tmp_path / "out").exists()
