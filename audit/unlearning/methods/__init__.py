"""Unlearning methods that change weights: each file of this folder is one (contract ``Method``).

The file's name is the method's name everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.plugins import discover
from audit.progress import Progress
from audit.unlearning.training import MethodSettings, Record


class Method(Protocol):
    """A file of this folder.

    Attributes:
        SETTINGS: the method's own settings, with its defaults; ``dataclasses.replace`` changes some of them.
    """

    TITLE: str
    SETTINGS: MethodSettings

    def unlearn(
        self,
        model: RunningModel,
        forget: Sequence[Example],
        retain: Sequence[Example],
        settings: MethodSettings,
        progress: Progress,
        /,
    ) -> Record:
        """Make ``model`` forget, in place; ``settings`` are of the type of ``SETTINGS``."""


@cache
def methods() -> dict[str, Method]:
    """Every unlearning method by name, in alphabetical order."""
    return discover(__name__, Method)
