"""Text files: read whole, as UTF-8, up to a size, with errors that say what to do."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import re
import stat
import tomllib
import unicodedata
import zlib
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 1024 * 1024
"""No concept file is larger; a model or an archive passed by mistake is rejected before it is read."""

_OTHER_BOMS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class ConceptFileError(ValueError):
    """A concept or skill that cannot be used: where (the file), what is wrong (the field or line), what to do."""

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
    return _decoded(data, where)


def _decoded(data: bytes, where: str) -> str:
    for mark, encoding in _OTHER_BOMS.items():
        if data.startswith(mark):
            raise ConceptFileError(f"is encoded in {encoding}.", where=where, hint="Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConceptFileError(f"line {line} is not UTF-8.", where=where, hint="Save the file as UTF-8.") from error


def read_unpacked(path: Path) -> str:
    """The text of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ConceptFileError: as ``read_text``; or it cannot be unpacked, or unpacks to too much.
    """
    if path.suffix.lower() != ".gz":
        return read_text(path)
    try:
        with gzip.open(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConceptFileError(f"unpacks to more than {MAX_BYTES:,} bytes.", where=str(path))
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConceptFileError(f"cannot be unpacked to UTF-8 text ({error}).", where=str(path)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML document.

    Raises:
        ConceptFileError: as ``read_text``; or it is not TOML (naming the line).
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # too long a number and too deep a nesting are not TOMLDecodeErrors
        raise ConceptFileError(
            f"is not TOML: {error}.", where=str(path), hint="See concepts/library/italy.toml for the form."
        ) from error


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises:
        ConceptFileError: as ``read_text``; or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConceptFileError(f"is not JSON: {error}.", where=str(path)) from error


def read_records(path: Path) -> list[tuple[int, Any]]:
    """(Line, JSON value) of each record: one JSON document at line 1, or JSON lines; unpacked as ``read_unpacked``.

    Raises:
        ConceptFileError: as ``read_unpacked``; or a line is not JSON (naming it).
    """
    text = read_unpacked(path)
    try:
        return [(1, json.loads(text))]
    except (ValueError, RecursionError):
        return [(number, _value(line, number, path)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _value(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConceptFileError(f"line {number} is not JSON: {error}.", where=str(path)) from error


def slug(name: str) -> str:
    """``name`` as a file name: lower-case ASCII letters, digits and hyphens, at most 60 characters.

    Accents are dropped. Where other letters are dropped or the name is cut, eight digits of the name's SHA-256 keep
    slugs distinct (``"東京"`` -> ``concept-`` and eight digits).
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    lost = any(letter.isalnum() and not letter.isascii() for letter in plain)
    if words and not lost and len(words) <= 60:
        return words
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{words[:51].strip('-') or 'concept'}-{digest}"
