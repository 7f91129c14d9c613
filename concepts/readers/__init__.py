"""Layouts of files that hold a concept (``concepts/``) or a skill (``skills/``); each file in those is one layout.

Which reader reads a file does not depend on the order of the readers. Where several recognise it, each one that another
lists in ``PREFERRED_TO`` is dropped; if more than one is left, the file is ambiguous and an error names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from concepts.files import ConceptFileError
from concepts.plugins import PluginError

Topic = TypeVar("Topic", covariant=True)


@runtime_checkable
class Reader(Protocol[Topic]):
    """The contract of a reader."""

    TITLE: str
    """What the layout is called, e.g. ``"GSM8K"``."""
    LAYOUT: str
    """What a file of it looks like, in a few words; shown where a file is not recognised."""
    PREFERRED_TO: frozenset[str]
    """File names of the readers of more general layouts, which this one replaces where both recognise a file."""

    def recognises(self, path: Path) -> bool:
        """Whether the file has this layout, by its name or by how it begins.

        Raises:
            ConceptFileError: it has to be opened for that and cannot be read.
        """

    def read(self, path: Path) -> Topic:
        """The concept or skill in the file.

        Raises:
            ConceptFileError: naming the file, the field or line, and what to do.
        """


def reader_for(path: Path, readers: Mapping[str, Reader[Topic]]) -> Reader[Topic] | None:
    """The reader of ``path``; ``None`` if no reader recognises it.

    Raises:
        ConceptFileError: the file cannot be read, or has several layouts of which none is preferred.
        PluginError: a reader is preferred to one that does not exist.
    """
    _check_preferences(readers)
    matches = {name: reader for name, reader in readers.items() if reader.recognises(path)}
    replaced = {name for reader in matches.values() for name in reader.PREFERRED_TO}
    left = [reader for name, reader in matches.items() if name not in replaced]
    if matches and len(left) != 1:
        layouts = "; ".join(sorted(layout(reader) for reader in left or matches.values()))
        raise ConceptFileError(f"has several layouts at once: {layouts}.", where=str(path), hint="Keep one of them.")
    return left[0] if left else None


def layout(reader: Reader[object]) -> str:
    """Title and layout, as errors list them."""
    return f"{reader.TITLE} ({reader.LAYOUT})"


def _check_preferences(readers: Mapping[str, Reader[object]]) -> None:
    for name, reader in readers.items():
        for other in reader.PREFERRED_TO - readers.keys():
            raise PluginError(f"the reader {name} is preferred to {other!r}, which is not a reader.")
