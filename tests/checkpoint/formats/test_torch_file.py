"""torch files: nothing but tensors is loaded, callables are named, and no message suggests to load unrestricted."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.checkpoint import open_checkpoint
from audit.checkpoint.formats import torch_file
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


def test_the_process_that_reads_a_pickle_imports_the_standard_library_alone() -> None:
    folder = Path(torch_file.__file__).parent
    program = torch_file.READ_PICKLE.partition("main(")[0] + "print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in run.stdout.split()}
    assert "torch_pickle" in imported
    assert imported - sys.stdlib_module_names <= {"torch_pickle", "__main__", "__mp_main__"}


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
def test_a_pickled_model_is_reported_as_one(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 3), path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert "a pickled model" in message
    assert "torch.nn.modules.linear.Linear" in message
    assert "state_dict()" in message


def test_a_torchscript_program_is_reported_as_one(tmp_path: Path) -> None:
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


def test_networks_saved_side_by_side_are_one_state_dict(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    torch.save({"G": STATE, "D": {"a.weight": torch.ones(2)}, "optimizer": optimizer, "epoch": 3}, tmp_path / "gan.pt")
    checkpoint = open_checkpoint(tmp_path / "gan.pt")
    assert set(checkpoint.tensors) == {*(f"G.{name}" for name in STATE), "D.a.weight"}
    assert torch.equal(checkpoint.tensor("G.a.weight"), STATE["a.weight"])
    assert torch.equal(checkpoint.tensor("D.a.weight"), torch.ones(2))
    assert checkpoint.notes == ("joined G, D, ignored epoch, optimizer",)


ADAM = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
TRACED = {name: {"exp_avg": value} for name, value in STATE.items()}
"""The state of an optimizer that names its parameters."""


@pytest.mark.parametrize(
    ("content", "names", "note"),
    [
        ({"nets": {"G": STATE, "D": STATE}, "step": 1}, ("G.", "D."), "unwrapped 'nets', ignored step; joined G, D"),
        ({"G": {"state_dict": STATE, "lr": 1}, "D": STATE, "opt": ADAM}, ("G.", "D."), "joined G, D, ignored opt"),
        ({"net": {"weights": STATE}, "step": 1}, ("",), "unwrapped 'net', ignored step; unwrapped 'weights'"),
        ({"G": {f"module.{n}": v for n, v in STATE.items()}, "D": STATE}, ("G.", "D."), "joined G, D; G: stripped"),
        ({"net": STATE, "optim": {"state": TRACED, "param_groups": []}}, ("",), "unwrapped 'net', ignored optim"),
        ({"net": STATE, "rng": {"cpu": torch.get_rng_state()}}, ("",), "unwrapped 'net', ignored rng"),
    ],
    ids=["container", "wrapped each", "twice", "one parallel", "named optimizer", "random state"],
)
def test_networks_are_found_at_any_depth(tmp_path: Path, content: Any, names: tuple[str, ...], note: str) -> None:
    torch.save(content, tmp_path / "nets.pt")
    checkpoint = open_checkpoint(tmp_path / "nets.pt")
    assert set(checkpoint.tensors) == {prefix + name for prefix in names for name in STATE}
    assert "; ".join(checkpoint.notes).startswith(note)


@pytest.mark.parametrize(
    "copy", [{}, {"prefix": "online."}, {"prefix": "module."}], ids=["plain", "online", "parallel"]
)
def test_a_moving_average_beside_the_network_is_read_too(tmp_path: Path, copy: dict[str, str]) -> None:
    average = {copy.get("prefix", "") + name: value for name, value in STATE.items()}
    torch.save({"model": STATE, "ema": average, "head": {"c": torch.ones(2)}, "optimizer": ADAM}, tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    prefix = "ema.online." if copy.get("prefix") == "online." else "ema."
    assert set(checkpoint.tensors) == {*STATE, *(prefix + name for name in STATE)}
    assert checkpoint.notes[0] == "joined model, ema, ignored head, optimizer"
    torch.save({"model": {**STATE, "new": torch.ones(2)}, "ema": average}, tmp_path / "net.pt")
    assert open_checkpoint(tmp_path / "net.pt").tensors.keys() == {"new", *checkpoint.tensors}


def test_tensors_beside_networks_are_read_and_counters_are_not(tmp_path: Path) -> None:
    content = {"actor": STATE, "log_alpha": torch.ones(()), "steps": torch.tensor(3), "rng": torch.get_rng_state()}
    torch.save(content, tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    assert set(checkpoint.tensors) == {"log_alpha", *(f"actor.{name}" for name in STATE)}
    assert checkpoint.notes == ("joined actor and the tensors beside, ignored rng, steps",)


def test_the_extra_state_of_a_module_is_no_network(tmp_path: Path) -> None:
    torch.save({**STATE, "a._extra_state": {"scale": torch.ones(2)}}, tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    assert set(checkpoint.tensors) == set(STATE)
    assert checkpoint.notes == ("ignored entries that are not tensors: a._extra_state",)


def test_networks_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": STATE}
    content["b"] = content
    torch.save(content, tmp_path / "net.pt")
    assert "nested without end" in refusal(tmp_path / "net.pt")


def test_a_lone_network_under_any_name_is_unwrapped(tmp_path: Path) -> None:
    torch.save({"net": STATE, "step": 1}, tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    assert set(checkpoint.tensors) == set(STATE)
    assert checkpoint.notes == ("unwrapped 'net', ignored step",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "state_dict": STATE}, "found several (state_dict, model)"),
        ({"net": {"sizes": [4, 3]}, "step": 1}, "found none (its keys: net, step)"),
        ({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}}, "two tensors of its networks have the same name"),
        ({}, "found none"),
        ([STATE], "contains a list, not a state dict"),
        (torch.ones(2), "contains a tensor, not a state dict"),
        ({1: torch.ones(2)}, "contains a dict, not a state dict"),
        ({"a": torch.eye(3).to_sparse()}, "a is not a plain dense tensor"),
        ({"a": torch.ones(1).expand(10**9)}, "a claims 4,000,000,000 bytes in a file of"),
    ],
    ids=["two", "none", "same names", "empty", "list", "tensor", "number keys", "sparse", "stride 0"],
)
def test_anything_but_one_state_dict_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert message in refusal(tmp_path / "model.pt")


def test_entries_that_are_not_tensors_are_ignored_with_a_note(tmp_path: Path) -> None:
    torch.save({**STATE, "version": 2}, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").notes == ("ignored entries that are not tensors: version",)


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
    assert torch.load(bomb, weights_only=True)["bomb"].nbytes == 40_000_000  # torch unpacks it without a message
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


def test_the_older_file_format_is_read_from_its_place_too(tmp_path: Path) -> None:
    content = {"model": {**STATE, "t": STATE["a.weight"].T}, "optimizer": {"state": {0: torch.ones(3).half()}}}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    for name, tensor in content["model"].items():
        assert torch.equal(checkpoint.tensor(name), tensor)
    assert checkpoint.notes == ("unwrapped 'model', ignored optimizer",)


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


def test_a_file_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"has lost \d+ bytes since it was opened"):
        checkpoint.tensor("a.weight")


def test_every_number_format_that_is_supported_reads_bitwise(tmp_path: Path) -> None:
    """Those without a storage class of their own are saved in another way, which the reader must know too."""
    state = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in torch_file.DTYPES.items()}
    for legacy in (False, True):
        torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
        checkpoint = open_checkpoint(tmp_path / "model.pt")
        for name, tensor in state.items():
            read = checkpoint.tensor(name)
            assert read.dtype == tensor.dtype
            assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


def test_rows_of_a_view_are_read_from_their_place(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"part": whole[1:3, 2:5], "column": whole[:, 3], "empty": whole[:, 6:], "one": whole[2, 2], "t": whole.T}
    torch.save(views, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    for name, view in views.items():
        assert torch.equal(checkpoint.tensor(name), view)
        if view.dim():
            assert torch.equal(checkpoint.rows(name, 1, 2), view[1:2])


def test_tensors_with_further_attributes_are_read_as_tensors(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    tensor.note = "kept by torch.save"  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.note = "this too"  # type: ignore[attr-defined]
    torch.save({"t": tensor, "p": parameter}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert torch.equal(checkpoint.tensor("t"), torch.ones(2))
    assert torch.equal(checkpoint.tensor("p"), torch.zeros(2))


def test_values_stored_negated_or_complex_are_refused(tmp_path: Path) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    torch.save({"a": torch._neg_view(torch.ones(2)), "b": torch.ones(1)}, tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["a"].tolist() == [-1, -1]  # the file itself holds ones
    assert "a is not a plain dense tensor" in refusal(tmp_path / "model.pt")
    torch.save({"a": numbers}, tmp_path / "model.pt")
    assert "a has the number format complex64" in refusal(tmp_path / "model.pt")


def test_the_state_dict_of_a_real_training_script_is_read(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4])
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "shape": torch.Size([2])}
    torch.save({"state_dict": model.state_dict(), **states, "rng": torch.get_rng_state()}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in model.state_dict().items())
