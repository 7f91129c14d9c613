"""Two checkpoints (three with a retained model), proven to be versions of one model, or an error that says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from audit.architectures import Architecture, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.errors import IncomparableError, listed

COMPARED: Final = {"name": "architecture", "n_layers": "layers", "d_model": "d_model", "d_mlp": "d_mlp"}
"""What versions of one model have in common. The vocabulary may have grown, and the head may have been untied."""

HINT: Final = "Pass checkpoints of the same model."


@dataclass(frozen=True)
class View:
    """A tensor the two models do not store alike, and what of it is compared.

    Attributes:
        base, unlearned: its name in each file; they differ where one model's head is its embedding.
        rows: the first rows, which both have.
    """

    base: str
    unlearned: str
    rows: int


@dataclass(frozen=True, eq=False)
class ModelPair:
    """What is compared.

    Attributes:
        architecture: the base's; ``None`` for state dicts of no known family, which get evidence on tensors alone.
        architectures: each model's own, by ``"base"``, ``"unlearned"``, ``"retained"``: head and vocabulary may differ.
        config: content of config.json, ``None`` where there is none.
        shared: tensors that both have under one name and in one shape, in the base's order.
        views: further tensors, compared in part or under two names, by canonical name.
        notes: what else differs or is unusual, in words for the report.
    """

    base: Checkpoint
    unlearned: Checkpoint
    retained: Checkpoint | None
    architecture: Architecture | None
    architectures: Mapping[str, Architecture | None]
    config: dict[str, Any] | None
    shared: tuple[str, ...]
    views: Mapping[str, View]
    notes: tuple[str, ...]

    def tensors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Base's and unlearned's version of a shared tensor or a view: one shape, each in its file's dtype."""
        view = self.views.get(name)
        if view is None:
            return self.base.tensor(name), self.unlearned.tensor(name)
        return self.rows(name, 0, view.rows)

    def rows(self, name: str, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``start`` to ``stop`` of both versions of a shared tensor or a view."""
        view = self.views.get(name, View(name, name, 0))
        return self.base.rows(view.base, start, stop), self.unlearned.rows(view.unlearned, start, stop)

    def layout(self, name: str) -> tuple[tuple[int, ...], torch.dtype, torch.dtype]:
        """Shape of a shared tensor or a view, and its number format in base and unlearned."""
        view = self.views.get(name)
        if view is None:
            return self.base.tensors[name].shape, self.base.tensors[name].dtype, self.unlearned.tensors[name].dtype
        base, unlearned = self.base.tensors[view.base], self.unlearned.tensors[view.unlearned]
        return (view.rows, *base.shape[1:]), base.dtype, unlearned.dtype


@dataclass(frozen=True)
class _Subject:
    """One model while the pair is put together."""

    role: str
    checkpoint: Checkpoint
    config: dict[str, Any] | None
    architecture: Architecture | None


def open_pair(base: Path, unlearned: Path, retained: Path | None = None, config: Path | None = None) -> ModelPair:
    """Open, verify and compare the layouts of two or three checkpoints. Reads headers; of values at most a stored head.

    Args:
        config: a config.json or its folder, for all models. Otherwise each model's own is used, and a model without one
            borrows the first that is found.

    Raises:
        CheckpointError: a file that cannot be trusted or read.
        ModelError: a config that cannot be read.
        IncomparableError: sound files that are not versions of one model; the message holds the table of differences.
    """
    paths = {"unlearned": unlearned} | ({"retained": retained} if retained else {})
    checkpoints = {"base": open_checkpoint(base)}
    for role, path in paths.items():
        checkpoints[role] = open_checkpoint(path, checkpoints["base"])
    subjects = _subjects(checkpoints, config)
    first, *others = subjects
    for other in others:
        _check_comparable(first, other)
    views = _views(first, subjects[1])
    return ModelPair(
        base=first.checkpoint,
        unlearned=subjects[1].checkpoint,
        retained=subjects[2].checkpoint if retained else None,
        architecture=first.architecture,
        architectures={subject.role: subject.architecture for subject in subjects},
        config=first.config,
        shared=_shared(first.checkpoint, subjects[1].checkpoint),
        views=views,
        notes=tuple(note for subject in subjects for note in _own_notes(subject))
        + tuple(note for other in others for note in _difference_notes(first, other)),
    )


def _subjects(checkpoints: Mapping[str, Checkpoint], config: Path | None) -> list[_Subject]:
    """Each checkpoint with its config and its architecture, base first."""
    given = read_config(config) if config is not None else None
    own = {role: given if given is not None else own_config(checkpoint) for role, checkpoint in checkpoints.items()}
    borrowed = next((found for found in own.values() if found is not None), None)
    subjects = []
    for role, checkpoint in checkpoints.items():
        used = own[role] if own[role] is not None else borrowed
        subjects.append(_Subject(role, checkpoint, used, identify(checkpoint, used)))
    return subjects


def _check_comparable(base: _Subject, other: _Subject) -> None:
    a, b = base.architecture, other.architecture
    if a is None and b is None:
        if not _shared(base.checkpoint, other.checkpoint):
            raise _incomparable(base, other, ["no tensor has the same name and shape in both"])
        return
    if a is None or b is None:
        names = [architecture.name if architecture else "unknown" for architecture in (a, b)]
        raise _incomparable(base, other, [f"architecture {names[0]} against {names[1]}"])
    differences = [
        f"{title} {getattr(a, field)} against {getattr(b, field)}"
        for field, title in COMPARED.items()
        if getattr(a, field) != getattr(b, field)
    ]
    if differences := differences or _tensor_differences(base.checkpoint, other.checkpoint, a, b):
        raise _incomparable(base, other, differences)


def _tensor_differences(base: Checkpoint, other: Checkpoint, a: Architecture, b: Architecture) -> list[str]:
    """Tensors that are in one file only or of unequal shape, the vocabulary's rows and the head aside."""
    flexible = _vocabulary_tensors(a)
    differences = []
    for name in dict.fromkeys([*a.roles, *b.roles]):
        if name in flexible:
            continue
        mine, its = (
            list(checkpoint.tensors[name].shape) if name in checkpoint.tensors else "absent"
            for checkpoint in (base, other)
        )
        if mine != its:
            differences.append(f"{name} {mine} against {its}")
    return differences


def _vocabulary_tensors(architecture: Architecture) -> tuple[str, str]:
    """Names of embedding and head; the second may not be stored."""
    (embedding,) = architecture.names("embedding")
    return embedding, architecture.head_name


def _shared(base: Checkpoint, unlearned: Checkpoint) -> tuple[str, ...]:
    return tuple(
        name
        for name, info in base.tensors.items()
        if name in unlearned.tensors and unlearned.tensors[name].shape == info.shape
    )


def _views(base: _Subject, unlearned: _Subject) -> dict[str, View]:
    """Embedding and head where they are not stored alike: rows both have, and a tied head as the embedding it is."""
    a, b = base.architecture, unlearned.architecture
    if a is None or b is None:
        return {}
    embedding, head = _vocabulary_tensors(a)
    rows = min(a.d_vocab, b.d_vocab)
    views = {}
    if a.d_vocab != b.d_vocab:
        views[embedding] = View(embedding, embedding, rows)
    mine, its = (head if head in subject.checkpoint.tensors else embedding for subject in (base, unlearned))
    if not (a.tied and b.tied) and (mine != its or a.d_vocab != b.d_vocab):
        views[head] = View(mine, its, rows)
    return views


def _own_notes(subject: _Subject) -> list[str]:
    """What is unusual about one model."""
    if subject.architecture is None:
        reason = why_unknown(subject.checkpoint, subject.config)
        return [f"{subject.role}: tensors are compared without knowing their roles: {reason}"]
    notes = list(subject.architecture.notes)
    stated = (subject.config or {}).get("dtype") or (subject.config or {}).get("torch_dtype")
    stored = _dtypes(subject.checkpoint)
    if stated is not None and subject.checkpoint.format not in ("gguf", "adapter") and stated != stored:
        notes.append(f"config.json says {stated}, the weights are stored as {stored}; the file's format is used")
    return [f"{subject.role}: {note}" for note in notes]


def _difference_notes(base: _Subject, other: _Subject) -> list[str]:
    """What is allowed to differ between two versions of one model and does."""
    notes = []
    a, b = base.architecture, other.architecture
    mine, its = _dtypes(base.checkpoint), _dtypes(other.checkpoint)
    if mine != its and other.checkpoint.format != "adapter":
        notes.append(f"base is stored as {mine}, {other.role} as {its}: the coarser one's rounding reads as change")
    if a is not None and b is not None:
        if a.d_vocab != b.d_vocab:
            rows = min(a.d_vocab, b.d_vocab)
            notes.append(
                f"vocabulary of {a.d_vocab} in base, {b.d_vocab} in {other.role}: the first {rows} rows are compared"
            )
        if a.tied != b.tied:
            tied, untied = ("base", other.role) if a.tied else (other.role, "base")
            notes.append(
                f"{tied} uses its embedding as head; it is compared with the head that {untied} has of its own"
            )
        return notes
    shared = _shared(base.checkpoint, other.checkpoint)
    for subject, whose in ((base, "base"), (other, other.role)):
        left = len(subject.checkpoint.tensors) - len(shared)
        if left:
            notes.append(f"{left} tensors of {whose} have no counterpart of the same name and shape")
    return notes


def _dtypes(checkpoint: Checkpoint) -> str:
    """The number formats of a file's floating-point tensors, ``"float32"`` or ``"bfloat16, float32"``."""
    found = {info.dtype for info in checkpoint.tensors.values() if info.dtype.is_floating_point}
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))


def _incomparable(base: _Subject, other: _Subject, differences: list[str]) -> IncomparableError:
    return IncomparableError(
        f"{base.checkpoint.path} and {other.checkpoint.path} are not versions of one model: {listed(differences)}.",
        hint=HINT,
    )
