"""What is asked of an audit, and the circumstances under which it runs: arguments that travel together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audit.progress import SILENT, Progress
from audit.settings import Settings


@dataclass(frozen=True)
class Request:
    """What the models are audited for.

    Attributes:
        concepts: library names or concept files.
        translations: a JSON file of every concept's questions in German (``concepts.jailbreaks.translated``).
        skills: files of queries (``concepts.skill``), each compared with the others, a single one with unrelated
            questions.
        guard: file or folder of the protection served around the unlearned weights. A guard of this tool is attacked,
            any other is recorded.
    """

    concepts: Sequence[str] = ()
    translations: Path | None = None
    skills: Sequence[Path] = ()
    guard: Path | None = None


@dataclass(frozen=True)
class RunContext:
    """How an audit runs, and what it reports to.

    Attributes:
        command: the command line as typed, for the record in the result.
    """

    settings: Settings = field(default_factory=Settings)
    progress: Progress = SILENT
    command: str = ""
