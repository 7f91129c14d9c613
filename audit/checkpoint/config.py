"""A model's config: config.json beside the weights, or the metadata of a GGUF file. No code in it is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from audit.architectures.config import Config
from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.formats.gguf_config import gguf_config
from audit.checkpoint.json_file import read_json_object
from audit.errors import ModelError

SIZE_LIMIT: Final = 10_000_000  # bytes; real ones have a few thousand


def read_config(path: Path) -> Config:
    """The content of ``path``, or of ``path/config.json`` if ``path`` is a folder.

    Raises:
        ModelError: missing, too large, not JSON, or not a JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError("no such config.", where=str(file), hint="Pass the folder that contains config.json.")
    return read_json_object(file, SIZE_LIMIT, "a model config", ModelError)


def own_config(checkpoint: Checkpoint) -> Config | None:
    """The checkpoint's own config: config.json beside the weights, else a GGUF file's metadata, else ``None``.

    Raises:
        ModelError: config.json cannot be read.
        CheckpointError: the GGUF metadata is incomplete or not supported.
    """
    if checkpoint.config_dir is not None:
        return read_config(checkpoint.config_dir)
    if checkpoint.format == "gguf":
        return gguf_config(checkpoint.files[0])
    return None
