"""A saved edit is a model folder like any other, the original keeps its bytes, and a failure leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import RECORD, read_record, save_model, writing_folder
from audit.errors import CheckpointError, ModelError
from audit.models.ffn import value_rows
from tests.helpers import open_model
from tests.tiny import DENSE, write_tiny


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", DENSE)
def test_transformers_loads_what_was_saved(family: str, tie: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base", family, tie=tie, dtype=dtype)
    before = digests(source)
    model = open_model(source)
    value_rows(model, 1)[5] = 0.25
    target = save_model(model.model, open_checkpoint(source), tmp_path / "out" / "edited", {"method": "test"})

    loaded, loading_info = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, output_loading_info=True)
    assert not any(loading_info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = model.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    text = "What is the capital of Italy?"
    assert AutoTokenizer.from_pretrained(target)(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    base, edited = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in base.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in edited.items()
    }
    changed = [name for name in base if not torch.equal(base[name], edited[name])]
    assert changed == [model.architecture.names("W_out")[1]]
    assert digests(source) == before


def test_the_record_names_the_edit_and_the_source_files(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    model = open_model(source)
    target = save_model(model.model, open_checkpoint(source), tmp_path / "edited", {"method": "zero", "n": 3})
    record = read_record(target)
    assert record is not None
    assert (record["method"], record["n"], record["tool"]["name"]) == ("zero", 3, "unlearning-audit")
    (file,) = record["source"]["files"]
    assert file["sha256"] == hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert read_record(source) is None
    (target / RECORD).write_text("{")
    assert read_record(target) is None


def test_a_head_stored_in_addition_to_its_tied_embedding_is_stored_again(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    state = load_file(source / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    target = save_model(open_model(source).model, open_checkpoint(source), tmp_path / "edited", {})
    assert load_file(target / "model.safetensors").keys() == state.keys()


def test_an_earlier_edit_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    model, checkpoint = open_model(source), open_checkpoint(source)
    target = save_model(model.model, checkpoint, tmp_path / "edited", {"n": 1})
    save_model(model.model, checkpoint, target, {"n": 2})
    assert read_record(target)["n"] == 2  # type: ignore[index]
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="left alone"):
        save_model(model.model, checkpoint, own, {})
    assert (own / "thesis.txt").read_text() == "years of work"
    for place in (source, target, source / "model.safetensors"):
        kept = digests(place) if place.is_dir() else None
        original = open_checkpoint(target) if place == target else checkpoint
        with pytest.raises(CheckpointError, match=r"original|left alone"):
            save_model(model.model, original, place, {})
        assert kept is None or digests(place) == kept
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "edited", "own"]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folders = {
        "killed": f".edited.{ended.pid}.abcd1234",
        "running": f".edited.{os.getpid()}.abcd1234",
        "of another folder": f".edited2.{ended.pid}.abcd1234",
        "somebody's": f".edited.{ended.pid}.mine5678",
        "backup": ".edited.backup",
    }
    for name in folders.values():
        (tmp_path / name / "new").mkdir(parents=True)
        (tmp_path / name / "new" / "model.safetensors").write_text("half")
    (tmp_path / folders.pop("somebody's") / "notes.txt").write_text("keep")
    with writing_folder(tmp_path / "edited") as new:
        (new / RECORD).write_text("{}")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"edited", f".edited.{ended.pid}.mine5678", *folders.values()} - {folders["killed"]}


def test_a_failure_leaves_neither_half_a_folder_nor_a_changed_one(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    model, checkpoint = open_model(source), open_checkpoint(source)
    target = save_model(model.model, checkpoint, tmp_path / "edited", {"n": 1})
    before = digests(target)
    value_rows(model, 0)[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj.*not finite"):
        save_model(model.model, checkpoint, target, {"n": 2})
    assert digests(target) == before
    with pytest.raises(ModelError, match="not finite"):
        save_model(model.model, checkpoint, tmp_path / "new", {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "edited"]


@pytest.mark.parametrize("content", [{"model.safetensors.index.json": "{}", "pytorch_model.bin": "x"}, {RECORD: "{}"}])
def test_other_weights_and_earlier_records_are_not_copied(content: dict[str, str], tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    model, checkpoint = open_model(source), open_checkpoint(source)
    for name, text in content.items():
        (source / name).write_text(text)
    target = save_model(model.model, checkpoint, tmp_path / "edited", {"method": "mine"})
    assert json.loads((target / RECORD).read_text())["method"] == "mine"
    assert {file.name for file in target.iterdir()} == {file.name for file in source.iterdir()} - set(content) | {
        RECORD
    }


def test_weights_without_a_config_are_refused_unless_it_is_given(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "base")
    model = open_model(source)
    bare = tmp_path / "bare"
    bare.mkdir()
    (source / "model.safetensors").rename(bare / "model.safetensors")
    checkpoint = open_checkpoint(bare)
    with pytest.raises(ModelError, match=r"no config\.json"):
        save_model(model.model, checkpoint, tmp_path / "edited", {})
    target = save_model(model.model, checkpoint, tmp_path / "edited", {}, config_dir=source)
    assert (target / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        (new / "half").write_text("half")
        assert not (tmp_path / "folder").exists()
        raise RuntimeError

    write: Callable[[Path], None] = fail
    with pytest.raises(RuntimeError), writing_folder(tmp_path / "folder") as new:
        write(new)
    assert list(tmp_path.iterdir()) == []
