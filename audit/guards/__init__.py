"""Guards: what keeps a skill from showing without changing a weight. Each sibling module with ``Guard`` is a method.

A guard is fitted on the queries of a skill, saved as a small folder (statistics, settings, digest of its base), and
served round a transformers model by hooks. Taking it off gives the base back, which is why an audit calls it a gate.

Source: Li, Sun, Weng, *Effective Skill Unlearning through Intervention and Abstention*, NAACL 2025.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save_file

from audit.architectures import Architecture
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import writing_folder
from audit.errors import CheckpointError, ModelError
from audit.guards.sites import Sites
from audit.models.packing import Example

DOCUMENT = "guard.json"
ARRAYS = "guard.safetensors"


class Guard(Protocol):
    """A fitted guard; ``METHOD`` is its module's name."""

    METHOD: ClassVar[str]

    def attach(self, model: torch.nn.Module, sites: Sites) -> ExitStack:
        """Put the hooks on ``model``; closing the stack takes them off."""

    def fits(self, sites: Sites) -> bool:
        """Whether its statistics are of a model with these ``sites``: layers, neurons, shapes."""

    def settings(self) -> dict[str, Any]:
        """Its numbers and words, as JSON."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Its statistics. ``Guard.load(settings, arrays)`` of its class makes it again."""


class Guarded:
    """A model with a guard on: a context manager, and ``remove()`` for when it is not used as one.

    Nothing stays behind: the model's hooks are then those it had before.
    """

    def __init__(self, model: torch.nn.Module, guard: Guard, sites: Sites) -> None:
        self.guard = guard
        self._hooks = guard.attach(model, sites)

    def remove(self) -> None:
        """Take the guard off; a second call does nothing."""
        self._hooks.close()

    def __enter__(self) -> Guarded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class HeldOut(BaseModel):
    """A query that the guard was not fitted on, kept so that the guard can be attacked with it.

    Attributes:
        forget: whether it needs the guarded skill.
        answer: as it follows the prompt, white space included.
        paraphrases, translations: the query in other words and in other languages, as far as the skill gives them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    forget: bool
    prompt: str = Field(min_length=1)
    answer: str | None = None
    paraphrases: tuple[str, ...] = ()
    translations: Mapping[str, str] = Field(default_factory=dict)

    def example(self, prompt: str | None = None) -> Example | None:
        """The query, or ``prompt`` in its place, with its right answer."""
        if self.answer is None or not self.answer.strip():
            return None
        return Example(self.prompt if prompt is None else prompt, self.answer)


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
    held_out: tuple[HeldOut, ...] = ()


@dataclass(frozen=True)
class Saved:
    """A guard as it was read from its folder."""

    guard: Guard
    skill: str
    base_sha256: str
    sites: Sites
    held_out: tuple[HeldOut, ...] = ()


def save_guard(
    guard: Guard,
    target: Path,
    model: torch.nn.Module,
    architecture: Architecture,
    skill: str,
    held_out: Sequence[HeldOut] = (),
) -> Path:
    """Write ``guard`` as a folder of two files, whole or not at all.

    Args:
        model: the base, whose digest goes into the record.
        skill: what is guarded, in words.
        held_out: queries to attack it with.

    Raises:
        CheckpointError: ``target`` holds something that is not a guard.
    """
    document = _Document(
        format="unlearning-audit/guard",
        format_version=1,
        method=guard.METHOD,
        skill=skill,
        base_sha256=digest(model),
        sites=Sites.of(architecture),
        settings=guard.settings(),
        held_out=tuple(held_out),
    )
    with writing_folder(target, marker=DOCUMENT) as new:
        save_file({name: np.atleast_1d(array).copy() for name, array in guard.arrays().items()}, new / ARRAYS)
        (new / DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return target


def read_guard(folder: Path) -> Saved:
    """The guard in ``folder``.

    Raises:
        CheckpointError: it holds none, or one that is damaged, in one line.
    """
    try:
        document = _Document.model_validate(json.loads((folder / DOCUMENT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise CheckpointError(
            f"holds no guard of this tool ({first}).", where=str(folder), hint="Make one with audit skill --save."
        ) from error
    from audit.guards.methods import methods  # each of them imports this package

    module = methods().get(document.method)
    if module is None:
        raise CheckpointError(f"is made by an unknown method {document.method!r}.", where=str(folder))
    stored = open_checkpoint(folder / ARRAYS)
    arrays = {name: stored.tensor(name).numpy() for name in stored.tensors}
    broken = [name for name, array in arrays.items() if np.isnan(array).any()]
    if broken:
        raise CheckpointError(f"{broken[0]} holds values that are not numbers.", where=str(folder / ARRAYS))
    try:
        guard: Guard = module.Guard.load(document.settings, arrays)
        fits = guard.fits(document.sites)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"lacks or misnames a part of the guard ({error}).", where=str(folder)) from error
    if not fits:
        raise CheckpointError("holds layers, neurons or shapes that its own model does not have.", where=str(folder))
    return Saved(guard, document.skill, document.base_sha256, document.sites, document.held_out)


def load_guard(model: torch.nn.Module, folder: Path | str) -> Guarded:
    """Put the guard in ``folder`` on a transformers model; ``generate`` is then guarded until it comes off.

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
    return Guarded(model, saved.guard, saved.sites)


def on_model(model: torch.nn.Module, guard: Guard, architecture: Architecture) -> Guarded:
    """The same for a guard that was just fitted."""
    return Guarded(model, guard, Sites.of(architecture))


def digest(model: torch.nn.Module) -> str:
    """SHA-256 over every parameter's name, shape and float32 values, as loaded; one tensor in memory at a time."""
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        found.update(f"{name} {tuple(parameter.shape)}\n".encode())
        found.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return found.hexdigest()
