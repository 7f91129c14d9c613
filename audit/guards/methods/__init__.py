"""The guards: each file of this folder is one, and adding a file adds a method of ``audit skill``."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from audit.plugins import discover


class Method(Protocol):
    """A file of this folder."""

    TITLE: str
    Guard: type[Any]


@cache
def methods() -> dict[str, Any]:
    """Every method by name, in alphabetical order; names are those of the command line, with hyphens."""
    return {name.replace("_", "-"): module for name, module in discover(__name__, Method).items()}
