"""The library's own layout: TOML with the fields of ``Concept``; the file's name is the concept's name."""

from __future__ import annotations

from pathlib import Path

from concepts.concept import Concept, parse_concept
from concepts.files import ConceptFileError, read_toml, slug

TITLE = "concept"
LAYOUT = "FILE.toml"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def read(path: Path) -> Concept:
    document = read_toml(path)
    if "name" in document:
        raise ConceptFileError("field name: a concept is named after its file; remove the field.", where=str(path))
    return parse_concept({"name": slug(path.stem), **document}, str(path))
