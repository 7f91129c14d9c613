"""An article about a concept, as plain text; the file's name is the title."""

from __future__ import annotations

from pathlib import Path

from concepts.concept import Concept, parse_concept
from concepts.files import ConceptFileError, read_text, slug

TITLE = "article"
LAYOUT = "FILE.txt"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def read(path: Path) -> Concept:
    text = read_text(path).strip()
    if not text:
        raise ConceptFileError("contains no text.", where=str(path), hint="Give an article about the concept.")
    return parse_concept({"name": slug(path.stem), "title": path.stem, "text": text}, str(path))
