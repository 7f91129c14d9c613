"""Torch files: planted commands, other objects than a state dict, truncated and oversized archives."""

from __future__ import annotations

import os
import pickle
import re
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.checkpoint import open_checkpoint
from audit.checkpoint.formats import torch_file
from tests.bad_input.samples import refusal


class Command:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def planted(mark: Path, where: str) -> bytes | dict[str, Any]:
    """Something that leaves ``mark`` behind when it is unpickled."""
    touch = f"touch {mark}"
    match where:
        case "reduce":
            return {"a": torch.ones(2), "x": Command(os.system, touch)}
        case "nested":
            return {"state_dict": {"a": torch.ones(2)}, "optimizer": {"state": [({"x": Command(os.system, touch)},)]}}
        case "beneath an allowed call":  # OrderedDict(...) of what the command returns
            return {"a": torch.ones(2), "x": Command(OrderedDict, [("k", Command(os.system, touch))])}
        case "evaluated":
            return {"a": torch.ones(2), "x": Command(eval, f"open({str(mark)!r}, 'w')")}
        case "an attribute of an allowed module":  # GLOBAL of a dotted name under a module whose names are allowed
            return b"\x80\x04}X\x01\x00\x00\x00xctorch.serialization\nos.system\n" + call(touch)
        case "a relative of an allowed name":
            return b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_import_dotted_name\n" + call(touch)
        case "a name made on the stack":  # STACK_GLOBAL
            return b"\x80\x04}X\x01\x00\x00\x00xX\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + call(touch)
        case _:  # an object of a class, by the older opcode
            return b"\x80\x02}X\x01\x00\x00\x00x(X" + text(touch) + b"ios\nsystem\ns."


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def call(argument: str) -> bytes:
    """Opcodes: call what lies on the stack with ``argument``, put the outcome into the dict beneath, end."""
    return b"X" + text(argument) + b"\x85Rs."


PLANTED = (
    "reduce",
    "nested",
    "beneath an allowed call",
    "evaluated",
    "an attribute of an allowed module",
    "a relative of an allowed name",
    "a name made on the stack",
    "an instance",
)


def plant(path: Path, content: bytes | dict[str, Any], legacy: bool) -> Path:
    """A torch file of either layout with ``content`` as its pickle."""
    pickled = torch.ones(2) if isinstance(content, bytes) else content
    torch.save(pickled, path, _use_new_zipfile_serialization=not legacy)
    if not isinstance(content, bytes):
        return path
    if legacy:
        heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(heads) + content + pickle.dumps([], 2))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", content)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_command_is_named_and_not_run(tmp_path: Path, where: str, legacy: bool) -> None:
    mark = tmp_path / "mark"
    path = plant(tmp_path / "evil.pt", planted(mark, where), legacy)
    message = refusal(open_checkpoint, path)
    assert re.search(r"would call .*(system|eval|_import_dotted_name)", message)
    assert "as safetensors" in message
    assert "weights_only" not in message
    assert not mark.exists()


@pytest.mark.parametrize("where", PLANTED[:4])
def test_the_planted_commands_run_where_torch_loads_them(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "mark"
    path = plant(tmp_path / "evil.pt", planted(mark, where), legacy=False)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):  # the advice that is not passed on
        torch.load(path)
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("where", ["an attribute of an allowed module", "a name made on the stack", "an instance"])
def test_the_planted_opcodes_run_where_pickle_loads_them(tmp_path: Path, where: str) -> None:
    content = planted(tmp_path / "mark", where)
    assert isinstance(content, bytes)
    pickle.loads(content)
    assert (tmp_path / "mark").exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    message = refusal(open_checkpoint, tmp_path / "model.pt")
    assert "a pickled model (torch.nn.modules.linear.Linear), not a state dict" in message
    assert "save model.state_dict() as safetensors" in message


def test_a_wrapped_state_dict_is_unwrapped_and_the_rest_is_noted(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({"state_dict": state, "optimizer": {"m": torch.ones(3)}, "rng": torch.ones(9)}, tmp_path / "model.pt")
    assert set(torch.load(tmp_path / "model.pt")) == {"state_dict", "optimizer", "rng"}  # the caller must know
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert torch.equal(checkpoint.tensor("a"), state["a"])
    assert checkpoint.notes == ("unwrapped 'state_dict', ignored optimizer, rng",)


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.01])
def test_a_truncated_torch_file_is_refused(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    assert "incomplete download" in refusal(open_checkpoint, path)


def test_a_truncated_torch_file_of_the_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the file is 1,000 bytes short: an incomplete download?" in refusal(open_checkpoint, path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "stored.pt")
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert bomb.stat().st_size < 100_000
    assert torch.load(bomb)["a"].nbytes == 40_000_000  # unpacked without a word
    assert "torch.save stores members as they are" in refusal(open_checkpoint, bomb)


@pytest.mark.parametrize(
    ("opcodes", "expected"),
    [
        (b"\x8e" + struct.pack("<Q", 2**40), "bytes of memory"),  # a string of a terabyte
        (b"}r\xff\xff\xff\xff.", "bytes of memory"),  # a memo of 2^32 entries
        (b"}q\x00X\x05\x00\x00\x00modelh\x00s.", "nested without end"),  # a wrapper that holds itself
        (b")q\x00" + 60 * b"h\x00h\x00\x86q\x00" + b"}h\x00Ns.", "more than 1 seconds"),  # a key with 2^60 parts
    ],
    ids=["length", "memo", "cycle", "time"],
)
def test_a_pickle_that_needs_too_much_memory_or_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcodes: bytes, expected: str
) -> None:
    monkeypatch.setattr(torch_file, "TIME_LIMIT", 1)
    started = time.perf_counter()
    path = plant(tmp_path / "bomb.pt", b"\x80\x02" + opcodes, legacy=False)
    assert expected in refusal(open_checkpoint, path)
    assert time.perf_counter() - started < 10
