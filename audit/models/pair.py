"""Two models (three with a retained one), checked to be versions of one; if not, the error lists how they differ.

This is also where the config and the tokenizer of each are decided. A config that was named is used for all models,
else each model's own, else the first that another model has. The tokenizer is the one named, else the base's, else the
unlearned model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch

from audit.architectures import Architecture, Config, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.errors import IncomparableError, listed
from audit.models.opening import OpenedModel, TokenizerFiles, open_model, with_config
from audit.models.tokenizer import Tokenizer

Role = Literal["base", "unlearned", "retained"]

COMPARED: Final = {"name": "architecture", "n_layers": "layers", "d_model": "d_model", "d_mlp": "d_mlp"}
"""What versions of one model have in common. The vocabulary may have grown, and the head may have been untied."""

HINT: Final = "Pass checkpoints of the same model."


@dataclass(frozen=True)
class View:
    """A tensor that the two models store differently, and the part of it that is compared.

    Attributes:
        base, unlearned: its name in each file; they differ where one model's head is its embedding.
        rows: the first rows, which both have.
    """

    base: str
    unlearned: str
    rows: int


@dataclass(frozen=True, eq=False)
class ModelPair:
    """The models of one audit.

    Attributes:
        shared: tensors that base and unlearned both have under one name and in one shape, in the base's order.
        views: further tensors, compared in part or under two names, by canonical name.
        notes: what else differs or is unusual, in words for the report.
        reference: a language model that never saw the data; it may be of another architecture.
    """

    base: OpenedModel
    unlearned: OpenedModel
    retained: OpenedModel | None
    shared: tuple[str, ...]
    views: Mapping[str, View]
    notes: tuple[str, ...]
    reference: OpenedModel | None = None

    @property
    def models(self) -> dict[Role, OpenedModel]:
        """Those there are, in the order base, unlearned, retained."""
        models: dict[Role, OpenedModel] = {"base": self.base, "unlearned": self.unlearned}
        return models if self.retained is None else {**models, "retained": self.retained}

    @property
    def architecture(self) -> Architecture | None:
        """The base's; that of another model differs at most in head and vocabulary."""
        return self.base.architecture

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The one tokenizer of all models, checked against the base's vocabulary; see ``OpenedModel.tokenizer``."""
        return self.base.tokenizer

    def tensors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Base's and unlearned's version of a shared tensor or a view: one shape, each in its file's dtype."""
        view = self.views.get(name)
        if view is None:
            return self.base.checkpoint.tensor(name), self.unlearned.checkpoint.tensor(name)
        return self.rows(name, 0, view.rows)

    def rows(self, name: str, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``start`` to ``stop`` of both versions of a shared tensor or a view."""
        view = self.views.get(name, View(name, name, 0))
        base, unlearned = self.base.checkpoint, self.unlearned.checkpoint
        return base.rows(view.base, start, stop), unlearned.rows(view.unlearned, start, stop)

    def unpaired(self) -> tuple[list[str], list[str]]:
        """Tensors of base and unlearned without a counterpart; none in models of a family, which are complete."""
        if self.architecture is not None:
            return [], []
        return _unpaired(self.base.checkpoint, self.unlearned.checkpoint)

    def layout(self, name: str) -> tuple[tuple[int, ...], torch.dtype, torch.dtype]:
        """Shape of a shared tensor or a view, and its number format in base and unlearned."""
        view = self.views.get(name, View(name, name, 0))
        base, unlearned = self.base.checkpoint.tensors[view.base], self.unlearned.checkpoint.tensors[view.unlearned]
        shape = (view.rows, *base.shape[1:]) if name in self.views else base.shape
        return shape, base.dtype, unlearned.dtype


def open_pair(
    base: Path,
    unlearned: Path,
    retained: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    reference: Path | None = None,
) -> ModelPair:
    """Open two or three checkpoints and compare their layouts.

    Reads headers; of values at most a stored head. The tokenizer is located here and loaded when it is first needed.

    Args:
        config: a config.json or its folder, for all models.
        tokenizer: a tokenizer's folder, for all models.
        reference: any language model that never saw the data, with its config and tokenizer beside it.

    Raises:
        CheckpointError: a file that cannot be trusted or read.
        ModelError: a config that cannot be read.
        IncomparableError: sound files that are not versions of one model; the message lists the differences.
    """
    paths: dict[Role, Path] = {"unlearned": unlearned}
    if retained is not None:
        paths["retained"] = retained
    checkpoints: dict[Role, Checkpoint] = {"base": open_checkpoint(base)}
    for role, path in paths.items():
        checkpoints[role] = open_checkpoint(path, checkpoints["base"])
    models = _with_tokenizer(_with_configs(checkpoints, config), tokenizer)
    first, second, third = models["base"], models["unlearned"], models.get("retained")
    others = {role: model for role, model in models.items() if role != "base"}
    for other in others.values():
        _check_comparable(first, other)
    notes = [note for role, model in models.items() for note in _own_notes(role, model)]
    notes += [note for role, other in others.items() for note in _difference_notes(first, role, other)]
    shared = _shared(first.checkpoint, second.checkpoint)
    unrelated = None if reference is None else _reference(reference, first)
    if unrelated is not None:
        notes.append("reference: asked with its own tokenizer")
    return ModelPair(first, second, third, shared, _views(first, second), tuple(notes), unrelated)


def _reference(path: Path, base: OpenedModel) -> OpenedModel:
    """The reference, with the base's tokenizer or config where it has none and is a version of the base.

    Raises:
        CheckpointError, ModelError: it cannot be run.
    """
    reference = open_model(path)
    if reference.config is None and base.config is not None:
        reference = with_config(reference.checkpoint, base.config)
    if not reference.has_tokenizer:
        reference = replace(reference, tokenizer_files=base.tokenizer_files)
    reference.require_config()
    reference.require_architecture()
    return reference


def _with_configs(checkpoints: Mapping[Role, Checkpoint], config: Path | None) -> dict[Role, OpenedModel]:
    """Each checkpoint with its config, base first."""
    given = read_config(config) if config is not None else None
    own = {role: given if given is not None else own_config(checkpoint) for role, checkpoint in checkpoints.items()}
    borrowed: Config | None = next((config for config in own.values() if config is not None), None)
    return {
        role: with_config(checkpoint, borrowed if own[role] is None else own[role])
        for role, checkpoint in checkpoints.items()
    }


def _with_tokenizer(models: Mapping[Role, OpenedModel], named: Path | None) -> dict[Role, OpenedModel]:
    """The models with one tokenizer, which must fit the base's vocabulary."""
    base, unlearned = models["base"], models["unlearned"]
    files = next((model.tokenizer_files for model in (base, unlearned) if model.has_tokenizer), base.tokenizer_files)
    d_vocab = base.architecture.d_vocab if base.architecture is not None else None
    files = replace(files, d_vocab=d_vocab) if named is None else TokenizerFiles(named, d_vocab)
    return {role: replace(model, tokenizer_files=files) for role, model in models.items()}


def _check_comparable(base: OpenedModel, other: OpenedModel) -> None:
    a, b = base.architecture, other.architecture
    if a is None and b is None:
        if not _shared(base.checkpoint, other.checkpoint):
            first, second = (listed(list(model.checkpoint.tensors), 2) for model in (base, other))
            reason = f"no tensor has the same name and shape in both ({first} against {second})"
            raise _incomparable(base, other, [reason])
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
    """Tensors that are in one file only or have different shapes; embedding and head are not looked at."""
    flexible = _vocabulary_tensors(a)
    differences = []
    for name in dict.fromkeys([*a.roles, *b.roles]):
        if name in flexible:
            continue
        shape, other_shape = (
            list(checkpoint.tensors[name].shape) if name in checkpoint.tensors else "absent"
            for checkpoint in (base, other)
        )
        if shape != other_shape:
            differences.append(f"{name} {shape} against {other_shape}")
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


def _views(base: OpenedModel, unlearned: OpenedModel) -> dict[str, View]:
    """Embedding and head where they are stored differently: the rows both have, and a tied head as the embedding."""
    a, b = base.architecture, unlearned.architecture
    if a is None or b is None:
        return {}
    embedding, head = _vocabulary_tensors(a)
    rows = min(a.d_vocab, b.d_vocab)
    views = {}
    if a.d_vocab != b.d_vocab:
        views[embedding] = View(embedding, embedding, rows)
    name, other = (head if head in model.checkpoint.tensors else embedding for model in (base, unlearned))
    if not (a.tied and b.tied) and (name != other or a.d_vocab != b.d_vocab):
        views[head] = View(name, other, rows)
    return views


def _own_notes(role: Role, model: OpenedModel) -> list[str]:
    """What is unusual about one model."""
    if model.architecture is None:
        reason = why_unknown(model.checkpoint, model.config)
        return [f"{role}: tensors are compared without knowing their roles: {reason}"]
    notes = list(model.architecture.notes)
    stated = (model.config or {}).get("dtype") or (model.config or {}).get("torch_dtype")
    stored = _dtypes(model.checkpoint)
    if stated is not None and model.checkpoint.format not in ("gguf", "adapter") and stated != stored:
        notes.append(f"config.json says {stated}, the weights are stored as {stored}; the file's format is used")
    return [f"{role}: {note}" for note in notes]


def _difference_notes(base: OpenedModel, role: Role, other: OpenedModel) -> list[str]:
    """What differs between two versions of one model and is allowed to."""
    notes = []
    a, b = base.architecture, other.architecture
    stored, other_stored = _dtypes(base.checkpoint), _dtypes(other.checkpoint)
    if stored != other_stored and other.checkpoint.format != "adapter":
        notes.append(
            f"base is stored as {stored}, {role} as {other_stored}: the coarser one's rounding reads as change"
        )
    if a is None or b is None:
        return notes + _unpaired_notes(base.checkpoint, role, other.checkpoint)
    if a.d_vocab != b.d_vocab:
        rows = min(a.d_vocab, b.d_vocab)
        notes.append(f"vocabulary of {a.d_vocab} in base, {b.d_vocab} in {role}: the first {rows} rows are compared")
    if a.tied != b.tied:
        tied, untied = ("base", role) if a.tied else (role, "base")
        notes.append(f"{tied} uses its embedding as head; it is compared with the head that {untied} has of its own")
    return notes


def _unpaired_notes(base: Checkpoint, role: Role, other: Checkpoint) -> list[str]:
    """The tensors of each file that are not compared."""
    counted = zip(("base", role), _unpaired(base, other), strict=True)
    return [
        f"{len(names)} tensors of {name} have no counterpart of the same name and shape: {listed(names)}"
        for name, names in counted
        if names
    ]


def _unpaired(base: Checkpoint, other: Checkpoint) -> tuple[list[str], list[str]]:
    """The tensors of each that the other has not, or in another shape."""
    shared = set(_shared(base, other))
    first, second = ([name for name in each.tensors if name not in shared] for each in (base, other))
    return first, second


def _dtypes(checkpoint: Checkpoint) -> str:
    """The number formats of a file's floating-point tensors, ``"float32"`` or ``"bfloat16, float32"``."""
    dtypes = {info.dtype for info in checkpoint.tensors.values() if info.dtype.is_floating_point}
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _incomparable(base: OpenedModel, other: OpenedModel, differences: list[str]) -> IncomparableError:
    return IncomparableError(
        f"{base.checkpoint.path} and {other.checkpoint.path} are not versions of one model: {listed(differences)}.",
        hint=HINT,
    )
