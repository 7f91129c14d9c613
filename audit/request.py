"""``Request`` and ``RunContext``: the arguments that the commands of the Python API share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audit.progress import SILENT, Progress
from audit.settings import Settings


@dataclass(frozen=True)
class Request:
    """The topics and the guard of an audit.

    Attributes:
        concepts: library names or concept files.
        translations: JSON file with the German questions of every concept (``concepts.jailbreaks.translated``).
        skills: files of queries (``concepts.skill``); each skill is compared with the others, a single one with
            unrelated questions.
        guard: file or folder of the protection around the unlearned weights. A guard of this tool is attacked, any
            other is only recorded.
    """

    concepts: Sequence[str] = ()
    translations: Path | None = None
    skills: Sequence[Path] = ()
    guard: Path | None = None


@dataclass(frozen=True)
class RunContext:
    """Settings, progress reporting and provenance of a run.

    Attributes:
        command: the command line, recorded in the result.
        units: folder in which finished units are kept, so that an interrupted audit is resumed; ``None`` for nowhere.
    """

    settings: Settings = field(default_factory=Settings)
    progress: Progress = SILENT
    command: str = ""
    units: Path | None = None
