"""Saving an edited model as a complete folder: weights, config, tokenizer and a record of the edit."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.runtime_parameters import under_stored_names
from audit.errors import CheckpointError, ModelError

RECORD: Final = "unlearning.json"
"""The file in a saved model's folder that records the edit."""
WEIGHTS: Final = "model.safetensors"
COPIED: Final = (".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Endings of the files of config and tokenizer."""


def save_model(
    model: torch.nn.Module,
    source: Checkpoint,
    target: Path,
    record: Mapping[str, Any],
    *,
    config_dir: Path | None = None,
    tokenizer_dir: Path | None = None,
) -> Path:
    """Write ``model``, an edited version of ``source``, as a folder that transformers loads.

    The folder appears when it is complete, or not at all; the source stays unchanged. Tensors keep the names, shapes
    and number formats of ``source``. Tensors that the model does not have (stored buffers) are copied bit by bit. A
    folder that this function wrote earlier is replaced; any other is left unchanged.

    Args:
        record: JSON values; written to ``unlearning.json`` together with the source's digests.
        config_dir, tokenizer_dir: the folders of config and tokenizer, if they are not with the source's weights.

    Returns:
        ``target``.

    Raises:
        CheckpointError: ``target`` contains the source or other files.
        ModelError: no config.json, or a weight that is not finite.
    """
    folder = config_dir or source.config_dir
    if folder is None:
        raise ModelError("no config.json beside the weights.", where=str(source.path), hint="Pass its folder.")
    refuse_occupied(target, originals=source.files)
    with writing_folder(target) as new:
        for origin in dict.fromkeys((folder, tokenizer_dir or folder)):
            _copy_small_files(origin, new)
        save_file(_tensors(model, source), new / WEIGHTS, metadata={"format": "pt"})
        document = {
            "format": "unlearning-audit/edit",
            "format_version": 1,
            "tool": {"name": "unlearning-audit", "version": version("unlearning-audit")},
            "source": {
                "path": str(source.path),
                "files": [file.model_dump() for file in source.file_records()],
            },
            **record,
        }
        (new / RECORD).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return target


def require_room(target: Path, size: int) -> None:
    """Check that ``size`` bytes can be written to the new folder ``target``, before slow work starts.

    Raises:
        CheckpointError: the disk has less room.
    """
    around = _around(target)
    free = shutil.disk_usage(around).free
    if free < size:
        raise CheckpointError(
            f"there is room for {free / 1e6:,.0f} MB, but the model has {size / 1e6:,.0f} MB.",
            where=str(around),
            hint="Make room, or name a folder on another disk.",
        )


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a saved edit, ``None`` if the folder contains no readable one."""
    try:
        document = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def refuse_occupied(target: Path, marker: str = RECORD, originals: Iterable[Path] = ()) -> None:
    """Check that ``target`` can be written, before slow work starts.

    Args:
        marker: a file that marks a folder as one that this tool wrote.
        originals: what the command reads.

    Raises:
        CheckpointError: ``target`` contains one of the ``originals`` or lies in it, contains something that this tool
            did not write, or cannot be written or replaced.
    """
    place = target.resolve()
    for original in (path.resolve() for path in originals):
        if original.is_relative_to(place):
            raise CheckpointError(f"contains the original {original}, which is never overwritten.", where=str(target))
        if original.is_dir() and place.is_relative_to(original):
            raise CheckpointError(
                f"lies in the original {original}, which stays as it is.",
                where=str(target),
                hint="Name a folder outside of it.",
            )
    if place.is_mount() or place == Path.cwd():
        raise CheckpointError(
            "is the current folder, or a disk of its own, and cannot be replaced by a new folder.",
            where=str(target),
            hint="Name a folder inside it.",
        )
    around = _around(target)
    if not (around.is_dir() and os.access(around, os.W_OK)):
        raise CheckpointError("cannot be written to.", where=str(around), hint="Name another folder.")
    if target.exists() and not (target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))):
        raise CheckpointError(
            "exists and was not written by this command, so it is left alone.",
            where=str(target),
            hint="Name a new folder.",
        )


def _around(target: Path) -> Path:
    """The folder in which ``target``, and what is missing of the path to it, is made."""
    return next(folder for folder in target.resolve().parents if folder.exists())


@contextmanager
def writing_folder(target: Path, marker: str = RECORD) -> Iterator[Path]:
    """A new folder that becomes ``target`` when the block ends, and is removed if the block raises.

    An existing ``target`` is replaced only if it is empty or contains ``marker``, which means that this tool wrote it.
    Where ``target`` is a link, the folder that it leads to is written.

    Raises:
        CheckpointError: ``target`` contains something else, or cannot be written, as on a full disk.
    """
    refuse_occupied(target, marker)
    try:
        with _becoming(target.resolve()) as new:
            yield new
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not be written ({error}); nothing was saved.",
            where=str(target),
            hint="Make room, or name another folder, and run the command again.",
        ) from error


@contextmanager
def _becoming(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.{os.getpid()}."))
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        _flush(new)
        if target.exists():
            target.rename(temporary / "old")
        new.rename(target)
    finally:
        shutil.rmtree(temporary)


def _remove_abandoned(target: Path) -> None:
    """Remove what a killed process was writing in place of ``target``."""
    for folder in target.parent.iterdir():
        made = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.\w{{8}}", folder.name)
        if made and not psutil.pid_exists(int(made[1])) and {each.name for each in folder.iterdir()} <= {"new", "old"}:
            shutil.rmtree(folder, ignore_errors=True)


def _tensors(model: torch.nn.Module, source: Checkpoint) -> dict[str, torch.Tensor]:
    """Tensor name in the source -> the model's value. A tied tensor is stored under each name that the source has."""
    state = under_stored_names(model.state_dict(), source.runtime_parameters)
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, info in source.tensors.items():
        tensor = state[name].detach().to("cpu", info.dtype).contiguous() if name in state else source.tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{name} has values that are not finite.", hint="Train with a lower learning_rate.")
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def _copy_small_files(origin: Path, target: Path) -> None:
    for file in sorted(origin.iterdir()):
        if file.is_file() and file.suffix in COPIED and not file.name.endswith(".index.json") and file.name != RECORD:
            shutil.copyfile(file, target / file.name)


def _flush(folder: Path) -> None:
    """Write the files' bytes to disk before their folder gets its name."""
    for file in folder.iterdir():
        file.chmod(0o644)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
