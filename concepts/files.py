"""Text files that people write: read whole, in UTF-8, up to a size, with errors that say what to do."""

from __future__ import annotations

import codecs
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 1024 * 1024
"""Larger than any concept file; a model or an archive passed by mistake is refused before it is read."""

_OTHER_BOMS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class ConceptFileError(ValueError):
    """A concept that cannot be used as given: ``where`` (file and field or line), what is wrong, what to do."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(" ".join(part for part in (f"{where}:" if where else "", message, hint or "") if part))


def read_text(path: Path) -> str:
    """The file's text without its byte order mark.

    Raises:
        ConceptFileError: no such file, not a regular file, too large, or not UTF-8 (naming the line).
    """
    where = str(path)
    try:
        status = path.stat()
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
        data = path.read_bytes() if usable else b""
    except (OSError, ValueError) as error:  # a path with NUL in it is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConceptFileError(f"cannot be read ({reason}).", where=where) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait, reading a device might not end
        raise ConceptFileError("is not a regular file.", where=where, hint="Pass a concept file.")
    if not usable:
        raise ConceptFileError(
            f"is {status.st_size:,} bytes; concept files are at most {MAX_BYTES:,} bytes.",
            where=where,
            hint="Pass a concept, not a model or a corpus.",
        )
    for mark, encoding in _OTHER_BOMS.items():
        if data.startswith(mark):
            raise ConceptFileError(f"is encoded in {encoding}.", where=where, hint="Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConceptFileError(f"line {line} is not UTF-8.", where=where, hint="Save the file as UTF-8.") from error


def read_toml(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long and nesting too deep are no TOMLDecodeError
        raise ConceptFileError(
            f"is not TOML: {error}.", where=str(path), hint="See concepts/library/italy.toml for the form."
        ) from error


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConceptFileError(f"is not JSON: {error}.", where=str(path)) from error
