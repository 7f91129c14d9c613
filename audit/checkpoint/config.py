"""config.json, read strictly: a config with a key twice or of absurd size is refused, nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.checkpoint.source import unique_keys
from audit.errors import ModelError

if TYPE_CHECKING:
    from audit.checkpoint import Checkpoint

SIZE_LIMIT: Final = 10_000_000  # bytes; real ones have a few thousand


def read_config(path: Path) -> dict[str, Any]:
    """The content of ``path``, or of ``path/config.json`` where ``path`` is a folder.

    Raises:
        ModelError: absent, too large, not JSON, not an object.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError("no such config.", where=str(file), hint="Pass the folder that holds config.json.")
    if file.stat().st_size > SIZE_LIMIT:
        raise ModelError(f"{file.stat().st_size:,} bytes are no model config.", where=str(file))
    try:
        config = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not valid JSON ({error}).", where=str(file)) from error
    if not isinstance(config, dict):
        raise ModelError(f"holds {type(config).__name__}, not a JSON object.", where=str(file))
    return config


def own_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The config beside the weights, else what a GGUF file says of itself, else ``None``."""
    if checkpoint.config_dir is not None:
        return read_config(checkpoint.config_dir)
    if checkpoint.format == "gguf":
        from audit.checkpoint.gguf import gguf_config  # the package behind it is needed for GGUF alone

        return gguf_config(checkpoint.files[0])
    return None
