"""The unlearning methods: each file of this folder is one, and adding a file adds a method.

``unlearn(model, forget, retain, settings, progress) -> Record`` changes the model it is given, which the caller has
loaded for that purpose, and records what it did. The module's name is the method's name everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.plugins import discover
from audit.progress import Progress
from audit.unlearning.training import Record, Settings


class Method(Protocol):
    """A file of this folder."""

    TITLE: str

    def unlearn(
        self,
        model: RunningModel,
        forget: Sequence[Example],
        retain: Sequence[Example],
        settings: Settings = ...,
        progress: Progress = ...,
        /,
    ) -> Record: ...


@cache
def methods() -> dict[str, Method]:
    """Every unlearning method by name, in alphabetical order."""
    return discover(__name__, Method)
