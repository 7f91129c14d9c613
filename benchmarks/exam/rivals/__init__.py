"""Metrics that others publish, each a file of this folder, computed on the models that the audit is examined on.

More is more knowledge. Each is written as its source defines it, with the defects that are known of its code mended.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

from audit.plugins import discover
from benchmarks.exam.models import Subject


class Rival(Protocol):
    """A file of this folder.

    Attributes:
        TITLE: as in tables.
        NEEDS_REFERENCE: whether it reads a model that was retrained without the facts.
    """

    TITLE: str
    NEEDS_REFERENCE: bool

    def score(self, subject: Subject, /) -> float:
        """How much the audited model knows of the facts to forget; NaN where it is undefined."""


@cache
def rivals() -> dict[str, Rival]:
    """Every rival metric by name."""
    return discover(__name__, Rival)
