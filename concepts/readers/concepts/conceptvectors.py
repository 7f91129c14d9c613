"""A list of ConceptVectors (Hong et al. 2024) and the concept chosen from it: ``llama2-7b_dev.json#Italy``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from concepts.concept import Concept, parse_concept
from concepts.files import ConceptFileError, read_json, slug
from concepts.prompts import normalise

TITLE = "ConceptVectors"
LAYOUT = "FILE.json#NAME"
PREFERRED_TO = frozenset({"toml", "article"})  # whatever the name of the entry ends in


def recognises(path: Path) -> bool:
    file, _ = _split(path)
    return file.suffix.lower() == ".json"


def read(path: Path) -> Concept:
    file, name = _split(path)
    entries = _entries(file, name)
    try:
        document = _document(name, entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConceptFileError(
            f"the entry {name!r} does not have the fields of ConceptVectors ({error!r}).", where=str(file)
        ) from error
    return parse_concept(document, f"{file}#{name}")


def _split(path: Path) -> tuple[Path, str]:
    """The file and the name of the entry, which is empty where none is given."""
    file, marked, name = str(path).partition(".json#")
    return (Path(f"{file}.json"), name) if marked else (path, "")


def _entries(file: Path, name: str) -> Sequence[Mapping[str, Any]]:
    """The entries of one concept: the list has one for each of its vectors."""
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "Concept" in entry for entry in entries):
        raise ConceptFileError(
            "is not a list of ConceptVectors entries (objects with a field Concept).",
            where=str(file),
            hint="Write other concepts as TOML.",
        )
    same = [entry for entry in entries if entry["Concept"] == name]
    if not same:
        problem = f"has no concept {name!r}" if name else "may contain several concepts"
        names = ", ".join(sorted({str(entry["Concept"]) for entry in entries}))
        raise ConceptFileError(f"{problem}; it has: {names}.", where=str(file), hint=f"Pass {file}#NAME.")
    return same


def _document(name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = entries[0]
    return {
        "name": slug(name),
        "title": name,
        "seeds": [name],
        "text": first["wikipedia_content"],
        "questions": _questions(first["QA"]),
        "unrelated": _questions(first["unrelated_QA"]),
        "completions": [
            {"first": halves["First_half"], "second": halves["Second_half"]} for halves in first["text_completion"]
        ],
        "vectors": [{"layer": entry["Layer"], "neuron": entry["Dim"]} for entry in entries],
    }


def _questions(texts: Iterable[str]) -> list[dict[str, str]]:
    """Questions without answers, each once: the published lists repeat some."""
    return [{"question": text} for text in {normalise(text): text.strip() for text in texts}.values()]
