"""``open_checkpoint``: a weight file or a folder of them, with every header verified before a tensor is read."""

from __future__ import annotations

from pathlib import Path

from audit.checkpoint.canonical_names import canonical_names
from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.folder import is_adapter, open_folder
from audit.checkpoint.formats import open_file
from audit.checkpoint.formats.adapter import open_adapter
from audit.checkpoint.runtime_parameters import TensorPart, canonical_parts, runtime_parameters
from audit.checkpoint.weight_file import WeightFile
from audit.errors import CheckpointError


def open_checkpoint(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Open a weight file or a folder of them (safetensors, torch state dicts, GGUF, a PEFT adapter).

    Reads headers only. Tensors are fetched on demand, so memory does not grow with the file.

    Args:
        base: the model into which an adapter in ``path`` is merged; not used for a complete model.

    Raises:
        CheckpointError: missing, damaged, ambiguous, unsafe or of an unknown format; the message says what to do.
    """
    try:
        files, notes = _open_files(path, base)
    except OSError as error:  # no such file, no permission, an input/output error
        raise CheckpointError(f"cannot be read ({error.strerror}).", where=str(error.filename or path)) from error
    stored = {name: file for file in files for name in file.tensors}
    for name in stored:
        if not name.isprintable():
            raise CheckpointError(
                f"{name!r} is not a valid tensor name.", where=str(path), hint="Do not trust this file."
            )
    canonical, name_notes = canonical_names(stored)
    parts = canonical_parts({name: TensorPart(stored[given], given) for given, name in canonical.items()})
    folder = path if path.is_dir() else path.parent
    file_notes = dict.fromkeys(note for file in files for note in file.notes)
    return Checkpoint(
        path=path,
        format=files[0].format,
        tensors={name: part.info(name) for name, part in parts.items()},
        notes=(*notes, *file_notes, *name_notes),
        config_dir=folder if (folder / "config.json").is_file() else None,
        runtime_parameters=runtime_parameters(parts),
        _files=files,
        _parts=parts,
    )


def _open_files(path: Path, base: Checkpoint | None) -> tuple[tuple[WeightFile, ...], tuple[str, ...]]:
    """The weight files of ``path``, and notes on other weight files that are ignored."""
    if not path.is_dir():
        return (open_file(path),), ()
    if not is_adapter(path):
        return open_folder(path)
    if base is None:
        raise CheckpointError(
            "an adapter, which is not a model without its base.",
            where=str(path),
            hint="Name it as the unlearned model after its base, or merge the two and save the result.",
        )
    return (open_adapter(path, base),), ()
