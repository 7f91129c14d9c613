"""torch files: nothing but tensors is loaded, callables are named, and no message suggests to load unrestricted."""

from __future__ import annotations

import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.checkpoint import open_checkpoint, torchfile
from audit.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


class Command:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert "weights_only" not in text
    return text


def recompress(source: Path, target: Path) -> Path:
    """The same archive with every member deflated."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return target


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_command_is_refused_by_name_and_never_run(tmp_path: Path, legacy: bool) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    torch.save({**STATE, "x": Command(mark)}, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert f"{os.system.__module__}.system" in message
    assert "safetensors" in message
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the positive control: the file was armed


def test_an_archive_with_callables_never_reaches_the_unpickler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": Command(tmp_path / "mark"), "y": Path.home}, tmp_path / "evil.pt")
    monkeypatch.setattr(torch, "load", lambda *_args, **_settings: pytest.fail("torch.load was called"))
    message = refusal(tmp_path / "evil.pt")
    assert ".system" in message
    assert "getattr" in message


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_model_is_called_that(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 3), path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert "a pickled model" in message
    assert "torch.nn.modules.linear.Linear" in message
    assert "state_dict()" in message


def test_a_torchscript_program_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.script(torch.nn.Linear(2, 3)).save(path)
    assert "a TorchScript program" in refusal(path)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_wrapped_state_dicts_are_unwrapped_and_optimizer_state_is_ignored(tmp_path: Path, key: str) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    torch.save({key: STATE, "optimizer": optimizer, "epoch": 3}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert set(checkpoint.tensors) == set(STATE)
    assert checkpoint.notes == (f"unwrapped {key!r}, ignored epoch, optimizer",)


def test_nested_wrappers_and_prefixes_come_off_together(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}}}, tmp_path / "m.pt")
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    assert torch.equal(checkpoint.tensor("a.weight"), STATE["a.weight"])
    assert len(checkpoint.notes) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "state_dict": STATE}, "found several (state_dict, model)"),
        ({"net": STATE, "step": 1}, "found none (its keys: net, step)"),
        ({}, "found none"),
        ([STATE], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({1: torch.ones(2)}, "holds a dict, not a state dict"),
        ({"a": torch.eye(3).to_sparse()}, "a is not a plain dense tensor"),
        ({"a": torch.ones(1).expand(10**9)}, "a claims 4,000,000,000 bytes in a file of"),
    ],
    ids=["two", "none", "empty", "list", "tensor", "number keys", "sparse", "stride 0"],
)
def test_anything_but_one_state_dict_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert message in refusal(tmp_path / "model.pt")


def test_entries_that_are_no_tensors_are_ignored_and_said(tmp_path: Path) -> None:
    torch.save({**STATE, "version": 2}, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").notes == ("ignored entries that are no tensors: version",)


def test_parameters_and_strided_views_read_as_plain_tensors(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save({"p": torch.nn.Parameter(matrix), "t": matrix.T, "row": matrix[1]}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert torch.equal(checkpoint.tensor("t"), matrix.T)
    assert checkpoint.tensor("t").is_contiguous()
    assert torch.equal(checkpoint.rows("t", 1, 3), matrix.T[1:3])
    assert torch.equal(checkpoint.tensor("row"), matrix[1])
    assert not checkpoint.tensor("p").requires_grad


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    torch.save({"bomb": torch.zeros(10_000_000)}, tmp_path / "stored.pt")
    bomb = recompress(tmp_path / "stored.pt", tmp_path / "bomb.pt")
    assert bomb.stat().st_size < 100_000
    assert torch.load(bomb, weights_only=True)["bomb"].nbytes == 40_000_000  # torch unpacks it without a word
    assert "is compressed or encrypted" in refusal(bomb)


def test_members_that_share_bytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(9):  # further names for the same 4,000 bytes, in the directory alone
            again = copy.copy(archive.getinfo("model/data/0"))
            again.filename = f"model/data/1{number}"
            archive.filelist.append(again)
        archive.comment = b"rewrites the directory"
    assert "its members claim" in refusal(path)


def test_the_older_file_format_is_read_and_said(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert torch.equal(checkpoint.tensor("b"), STATE["b"])
    assert checkpoint.notes == ("torch's older file format: read into memory whole",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.02])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool, fraction: float) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(5_000)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    message = refusal(path)
    assert legacy or "incomplete download" in message


def test_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    assert "the file is empty" in refusal(tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert "not a weight file: it begins with b'hello'" in refusal(tmp_path / "text.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps([1, 2], protocol=2))
    refusal(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    assert "not one that torch.save wrote" in refusal(tmp_path / "other.pt")


def test_a_map_made_anew_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchfile, "MAPPED_LIMIT", 0)
    torch.save(STATE, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    for _ in range(3):
        assert all(torch.equal(checkpoint.tensor(name), value) for name, value in STATE.items())
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        checkpoint.tensor("b")
