"""JSON files read strictly: of bounded size, and without a duplicate key, of which ``json`` would keep the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audit.errors import AuditError, CheckpointError


def read_json(path: Path, limit: int, what: str, error_class: type[AuditError] = CheckpointError) -> Any:
    """The parsed content of ``path``.

    Args:
        limit: most bytes of the file.
        what: what the file should be, for the message.

    Raises:
        AuditError: of ``error_class``, too large or not JSON.
    """
    size = path.stat().st_size
    if size > limit:
        raise error_class(f"{size:,} bytes are too many for {what} (at most {limit:,}).", where=str(path))
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise error_class(f"not valid JSON ({error}).", where=str(path)) from error


def read_json_object(
    path: Path, limit: int, what: str, error_class: type[AuditError] = CheckpointError
) -> dict[str, Any]:
    """The parsed content of ``path``, which is a JSON object. Arguments and errors are those of ``read_json``."""
    content = read_json(path, limit, what, error_class)
    if not isinstance(content, dict):
        raise error_class(f"contains a {type(content).__name__}, not a JSON object.", where=str(path))
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for ``json.loads``: a duplicate key is a ValueError."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} appears twice")
        result[key] = value
    return result
