"""torch state dicts (.pt, .pth, .bin), read with torch's restricted loader only.

A pickle can run commands. Whatever the restricted loader refuses is refused here, and torch's own advice to switch the
restriction off is never passed on. Archive members must be stored uncompressed: 380 KB can otherwise unpack to 400 MB.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from audit.checkpoint.source import ZIP_MAGIC, Format, TensorInfo
from audit.errors import CheckpointError

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save the state dict beside optimizer and counters."""

MAPPED_LIMIT: Final = 128 * 2**20
"""Bytes read through one memory map before it is made anew, because pages once read stay in our resident memory."""

SAVE_HINT: Final = "Have whoever trusts it load it and save model.state_dict() as safetensors."


class TorchFile:
    """A state dict in a zip archive, mapped for a while at a time, or in torch's older format, held in memory."""

    format: Format = "torch"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = _is_archive(path)
        if self._archive:
            _check_archive(path)
        self._state, self.notes = self._load()
        if not self._archive:
            self.notes += ("torch's older file format: read into memory whole",)
        self._read_bytes = 0
        self.tensors: Mapping[str, TensorInfo] = self._infos()

    def tensor(self, name: str) -> torch.Tensor:
        return self._copy(name, ...)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._copy(name, slice(start, stop))

    def _copy(self, name: str, part: Any) -> torch.Tensor:
        if self._archive and self._read_bytes > MAPPED_LIMIT:
            self._state, _ = self._load()
            self._read_bytes = 0
            if self._infos() != self.tensors:
                raise CheckpointError("changed while it was read.", where=str(self.path), hint="Run the audit again.")
        copy = self._state[name][part].clone(memory_format=torch.contiguous_format)
        self._read_bytes += copy.nbytes
        return copy

    def _infos(self) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(name, tuple(tensor.shape), tensor.dtype, self.path.name)
            for name, tensor in self._state.items()
        }

    def _load(self) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        content = _restricted_load(self.path, mmap=self._archive)
        state, notes = _unwrap(content, self.path)
        tensors = {name: value.detach() for name, value in state.items() if isinstance(value, torch.Tensor)}
        others = sorted(state.keys() - tensors.keys())
        if others:
            notes += (f"ignored entries that are no tensors: {', '.join(others)}",)
        size = self.path.stat().st_size
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, size, self.path)
        return tensors, notes


def _is_archive(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _check_archive(path: Path) -> None:
    """The archive is whole, holds what torch.save writes, and unpacks to no more than its own size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            "the archive's end is missing or damaged: an incomplete download?",
            where=str(path),
            hint="Download or save it again.",
        ) from error
    names = [member.filename.partition("/")[2] for member in members]
    if "constants.pkl" in names:
        raise CheckpointError("a TorchScript program, not a state dict.", where=str(path), hint=SAVE_HINT)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise CheckpointError(
                f"member {member.filename} is compressed or encrypted; torch.save stores members as they are.",
                where=str(path),
                hint="Do not trust this file; get the weights as safetensors.",
            )
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > size:
        raise CheckpointError(f"its members claim {total:,} bytes in a file of {size:,}.", where=str(path))
    if "data.pkl" not in names:
        raise CheckpointError("a zip archive, but not one that torch.save wrote.", where=str(path))
    _check_globals(path)


def _check_globals(path: Path) -> None:
    """No callable beyond those that rebuild tensors, found by disassembling the pickle, not by running it."""
    try:
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # its reader raises many kinds on a damaged pickle
        raise CheckpointError(f"its pickle is damaged ({_one_line(error)}).", where=str(path)) from error
    if unsafe:
        raise _unsafe(unsafe, path)


def _restricted_load(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, weights_only=True, mmap=mmap, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.findall(r"(?:GLOBAL|class|function) ([A-Za-z_][\w.]*\.\w+)", str(error))
        if named:
            raise _unsafe(named[:1], path) from error
        raise CheckpointError(
            "the restricted loader refused it: damaged, or more than tensors.", where=str(path), hint=SAVE_HINT
        ) from error
    except Exception as error:  # truncated or malformed files raise EOFError, RuntimeError, KeyError and others
        raise CheckpointError(
            f"cannot be read as a state dict ({_one_line(error)}).", where=str(path), hint="Download or save it again."
        ) from error


def _unsafe(callables: list[str], path: Path) -> CheckpointError:
    shown = ", ".join(callables[:3]) + (f" and {len(callables) - 3} more" if len(callables) > 3 else "")
    if any(name.startswith(("torch.nn.", "transformers.")) for name in callables):
        return CheckpointError(f"a pickled model ({shown}), not a state dict.", where=str(path), hint=SAVE_HINT)
    return CheckpointError(f"its pickle would call {shown}; it was not loaded.", where=str(path), hint=SAVE_HINT)


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state dict inside ``content``, and a note where it was wrapped."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"holds a {type(content).__name__}, not a state dict.", where=str(path), hint=SAVE_HINT)
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return content, ()
    wrapped = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    if len(wrapped) != 1:
        found = f"several ({', '.join(wrapped)})" if wrapped else f"none (its keys: {', '.join(sorted(content)[:5])})"
        raise CheckpointError(f"expected one state dict, found {found}.", where=str(path), hint=SAVE_HINT)
    state, notes = _unwrap(content[wrapped[0]], path)
    others = sorted(content.keys() - {wrapped[0]})
    ignored = f", ignored {', '.join(others)}" if others else ""
    return state, (f"unwrapped {wrapped[0]!r}{ignored}", *notes)


def _check_tensor(name: str, tensor: torch.Tensor, file_size: int, path: Path) -> None:
    """A plain tensor, no larger than the file: a stride of 0 lets a few bytes claim any shape."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{name} is not a plain dense tensor.", where=str(path), hint=SAVE_HINT)
    if tensor.nbytes > file_size:
        raise CheckpointError(f"{name} claims {tensor.nbytes:,} bytes in a file of {file_size:,}.", where=str(path))


def _one_line(error: Exception) -> str:
    """The first line of a foreign error, without torch's advice to load unrestricted."""
    text = str(error).splitlines()[0] if str(error) else ""
    return text[:160].rstrip(".") or type(error).__name__
