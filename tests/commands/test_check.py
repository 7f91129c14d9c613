"""check(): sound, refused and incomparable checkpoints, and what an audit of them could do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from audit.checkpoint import Checkpoint
from audit.commands.check import check
from audit.metrics import topic_metrics, weights_metrics
from tests.tiny import edit, write_tiny

run = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("check") / "base")


def test_a_whole_model_is_sound_and_described(model: Path) -> None:
    checked = check([model])
    (path,) = checked.paths
    assert checked.sound
    assert (path.family, path.format, path.dtypes) == ("llama", "safetensors", ("float32",))
    assert path.sizes == {"n_layers": 2, "d_model": 16, "d_mlp": 40, "d_vocab": 320}
    assert path.config
    assert path.tokenizer
    assert path.files[0].sha256 == hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def test_every_metric_is_possible_or_says_what_is_missing(model: Path, tmp_path: Path) -> None:
    full = check([model])
    assert {row.metric for row in full.metrics} == {*topic_metrics(), *weights_metrics()}
    assert all(row.missing is None for row in full.metrics)
    bare = tmp_path / "bare.safetensors"
    shutil.copy(model / "model.safetensors", bare)
    missing = {row.metric: row.missing for row in check([bare]).metrics}
    assert missing["weight_change"] is None
    assert "tokenizer" in (missing["exact_memorisation"] or "")


def test_no_tensor_value_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> torch.Tensor:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Checkpoint, "tensor", read)
    monkeypatch.setattr(Checkpoint, "rows", read)
    assert check([model, model]).sound


def test_no_hash_means_no_hashes(model: Path) -> None:
    assert [file.sha256 for file in check([model], hashes=False).paths[0].files] == [None]


def test_versions_of_one_model_are_comparable_and_others_are_not(model: Path, tmp_path: Path) -> None:
    version = edit(model, tmp_path / "version", lambda name, tensor: tensor + 1)
    wider = write_tiny(tmp_path / "wider", intermediate_size=48)
    checked = check([model, version, wider])
    assert [path.comparable for path in checked.paths] == [None, True, False]
    assert "d_mlp 40 against 48" in (checked.paths[2].differences or "")
    assert not checked.sound
    assert check([model, version]).sound


def test_a_damaged_file_is_refused_and_the_others_are_still_described(model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((model / "model.safetensors").read_bytes()[:-100])
    checked = check([cut, model])
    assert "100 bytes" in (checked.paths[0].refused or "")
    assert checked.paths[1].family == "llama"
    assert checked.plan is None
    assert not checked.sound


def test_a_concept_adds_its_questions_to_the_estimate(model: Path) -> None:
    without, with_concept = check([model]).plan, check([model], concepts=["italy"]).plan
    assert without is not None
    assert with_concept is not None
    assert without.forward_tokens == 0
    assert with_concept.forward_tokens > 0


def test_the_command_prints_and_ends_with_0_or_1(model: Path, tmp_path: Path) -> None:
    shown = run.invoke(cli.app, ["check", str(model), "--json", "--quiet"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["sound"] is True
    assert "Can measure" in run.invoke(cli.app, ["check", str(model), "--quiet"]).stdout
    missing = run.invoke(cli.app, ["check", str(model), str(tmp_path / "none"), "--quiet"])
    assert missing.exit_code == 1
    assert "refused" in missing.stdout
