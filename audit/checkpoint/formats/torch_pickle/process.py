"""The process that reads a pickle: it limits itself, reads the file, and writes one JSON document to stdout.

The document is ``{"tensors": {name: {"dtype", "shape", "stride", "begin"}}, "notes": [...]}`` or
``{"error": ..., "hint": ...}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .layouts import ARCHIVE_MAGIC, read_archive, read_legacy
from .records import DISTRUST, DOWNLOAD_AGAIN, RefusedFile, is_tensor
from .state_dict import locate, unwrap


def main(path: str, memory: str, seconds: str) -> None:
    """Write the document for the file ``path``, with at most ``memory`` bytes and ``seconds`` of processor time."""
    not_limited = limit_resources(int(memory), int(seconds))
    try:
        document = inspect(Path(path))
        if not_limited:
            document["notes"].append(f"this system did not limit {', '.join(not_limited)} while the pickle was read")
    except RefusedFile as refused:
        document = {"error": str(refused), "hint": refused.hint}
    except MemoryError:
        document = {"error": f"its pickle needs more than {int(memory):,} bytes of memory.", "hint": DISTRUST}
    except Exception as error:  # a malformed pickle can fail in any way, but only here
        lines = str(error).splitlines()
        reason = (lines[0][:160] if lines else "").rstrip(".") or type(error).__name__
        document = {"error": f"cannot be read as a state dict ({reason}).", "hint": DOWNLOAD_AGAIN}
    sys.stdout.write(json.dumps(document) + "\n")


def inspect(path: Path) -> dict[str, Any]:
    """The document for a file that can be read.

    Raises:
        RefusedFile: not a state dict, or not one that can be read without running code.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        archived = stream.read(4) == ARCHIVE_MAGIC
        stream.seek(0)
        content, position = read_archive(stream, size) if archived else read_legacy(stream, size)
        state, notes = unwrap(content)
        others = sorted(name for name, value in state.items() if not is_tensor(value))
        if others:
            notes.append(f"ignored entries that are not tensors: {', '.join(others)}")
        tensors = {name: locate(name, value, position) for name, value in state.items() if is_tensor(value)}
    return {"tensors": tensors, "notes": notes}


def limit_resources(memory: int, seconds: int) -> list[str]:
    """Limit this process's memory (bytes) and processor time, and forbid it to write files and to start processes.

    Returns:
        What this system does not let us limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return ["memory and time"]
    limits = {
        "memory": ("RLIMIT_AS", memory),
        "time": ("RLIMIT_CPU", seconds),
        "files": ("RLIMIT_FSIZE", 0),
        "processes": ("RLIMIT_NPROC", 0),
    }
    not_limited = []
    for what, (name, value) in limits.items():
        try:
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        except (AttributeError, OSError, ValueError):  # this system has no such limit
            not_limited.append(what)
    return not_limited
