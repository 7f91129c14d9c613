"""Report formats: each module of ``reports`` that defines ``FILE_ENDINGS`` and ``render(result) -> str``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import reports
from audit.errors import ResultError
from audit.result import AuditResult

Render = Callable[[AuditResult], str]


def formats() -> dict[str, Render]:
    """File ending (``".html"``) -> the function that draws a result in this format."""
    names = sorted(module.name for module in iter_modules(reports.__path__))
    modules = [import_module(f"{reports.__name__}.{name}") for name in names]
    return {ending: module.render for module in modules for ending in getattr(module, "FILE_ENDINGS", ())}


def format_of(path: Path) -> Render:
    """The format for the ending of ``path``.

    Raises:
        ResultError: no format has this ending.
    """
    known = formats()
    if path.suffix.lower() not in known:
        raise ResultError(
            f"no report format has the ending {path.suffix!r}.", where=str(path), hint=f"Use one of {', '.join(known)}."
        )
    return known[path.suffix.lower()]
