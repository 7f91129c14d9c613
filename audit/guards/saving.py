"""A guard's folder: written, read, and applied to the model that it was fitted on.

``guard.json`` holds the method, its settings, the base's digest, the hook sites and the held-out queries;
``guard.safetensors`` holds the statistics. Format version 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save_file

from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import writing_folder
from audit.errors import CheckpointError, ModelError
from audit.guards.methods import Guard, GuardState, method_of, methods
from audit.guards.sites import Sites
from audit.guards.splits import HeldOutQuery
from audit.models.loading import RunningModel

DOCUMENT: Final = "guard.json"
ARRAYS: Final = "guard.safetensors"


class _Document(BaseModel):
    """``guard.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = Field(pattern="^unlearning-audit/guard$")
    format_version: int = Field(ge=1, le=1)
    method: str
    skill: str
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    sites: Sites
    settings: Mapping[str, Any]
    held_out: tuple[HeldOutQuery, ...] = ()


@dataclass(frozen=True)
class SavedGuard:
    """A guard as read from its folder.

    Attributes:
        skill: title of the guarded skill.
        base_sha256: see ``digest``.
        held_out: queries that it was not fitted on, to attack it with.
    """

    guard: Guard
    skill: str
    base_sha256: str
    sites: Sites
    held_out: tuple[HeldOutQuery, ...] = ()

    @property
    def method(self) -> str:
        return method_of(self.guard)


class AppliedGuard:
    """A guard on a model, until ``remove()`` or the end of the ``with`` block. The model's own hooks stay."""

    def __init__(self, guard: Guard, hooks: ExitStack) -> None:
        self.guard = guard
        self._hooks = hooks

    def remove(self) -> None:
        """Remove the guard; a second call does nothing."""
        self._hooks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def is_guard(path: Path) -> bool:
    """Whether ``path`` is a folder that ``audit skill --save`` wrote."""
    return (path / DOCUMENT).is_file()


def save_guard(
    guard: Guard, target: Path, model: RunningModel, skill: str, held_out: Sequence[HeldOutQuery] = ()
) -> Path:
    """Write ``guard`` as a folder of two files, whole or not at all.

    Args:
        model: the base; its digest is recorded.
        skill: title of the guarded skill.
        held_out: queries to attack the guard with.

    Raises:
        CheckpointError: ``target`` holds something other than a guard.
    """
    state = guard.save()
    document = _Document(
        format="unlearning-audit/guard",
        format_version=1,
        method=method_of(guard),
        skill=skill,
        base_sha256=digest(model.model),
        sites=Sites.from_architecture(model.architecture),
        settings=state.settings,
        held_out=tuple(held_out),
    )
    with writing_folder(target, marker=DOCUMENT) as new:
        save_file({name: np.atleast_1d(array).copy() for name, array in state.arrays.items()}, new / ARRAYS)
        (new / DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return target


def read_guard(folder: Path) -> SavedGuard:
    """The guard in ``folder``.

    Raises:
        CheckpointError: it holds none, or one that is damaged, in one line.
    """
    document = _read_document(folder)
    method = methods().get(document.method)
    if method is None:
        raise CheckpointError(f"is made by an unknown method {document.method!r}.", where=str(folder))
    state = GuardState(document.settings, _read_arrays(folder / ARRAYS))
    try:
        guard = method.GUARD.load(state)
        matches = guard.matches(document.sites)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"lacks or misnames a part of the guard ({error}).", where=str(folder)) from error
    if not matches:
        raise CheckpointError("holds layers, neurons or shapes that its own model does not have.", where=str(folder))
    return SavedGuard(guard, document.skill, document.base_sha256, document.sites, document.held_out)


def open_guard(path: Path | None) -> SavedGuard | None:
    """The guard in ``path``; ``None`` for no path, or a protection that is not a guard of this tool.

    Raises:
        CheckpointError: see ``read_guard``.
    """
    return read_guard(path) if path is not None and is_guard(path) else None


def load_guard(model: torch.nn.Module, folder: Path | str) -> AppliedGuard:
    """Apply the guard in ``folder`` to a transformers model; ``generate`` is then guarded until it is removed.

    Raises:
        CheckpointError: see ``read_guard``.
        ModelError: the guard was made for another base.
    """
    saved = read_guard(Path(folder))
    if digest(model) != saved.base_sha256:
        raise ModelError(
            "the guard was made for another model.",
            where=str(folder),
            hint="Its statistics mean nothing here, nor in another --dtype; fit one on this model with audit skill.",
        )
    return AppliedGuard(saved.guard, saved.guard.apply(model, saved.sites))


def digest(model: torch.nn.Module) -> str:
    """SHA-256 over every parameter's name, shape and float32 values, as loaded; one tensor in memory at a time."""
    digested = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digested.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digested.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digested.hexdigest()


def _read_document(folder: Path) -> _Document:
    try:
        return _Document.model_validate(json.loads((folder / DOCUMENT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise CheckpointError(
            f"holds no guard of this tool ({first}).", where=str(folder), hint="Make one with audit skill --save."
        ) from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    stored = open_checkpoint(path)
    arrays = {name: stored.tensor(name).numpy() for name in stored.tensors}
    broken = next((name for name, array in arrays.items() if np.isnan(array).any()), None)
    if broken is not None:
        raise CheckpointError(f"{broken} holds values that are not numbers.", where=str(path))
    return arrays
