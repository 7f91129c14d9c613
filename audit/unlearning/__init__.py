"""The unlearning methods: each sibling module with a function ``unlearn`` is one, and adding a file adds a method.

``unlearn(model, forget, retain, settings, progress) -> Record`` changes the model it is given, which the caller has
loaded for that purpose, and records what it did. The module's name is the method's name everywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def methods() -> dict[str, ModuleType]:
    """Every unlearning method by name, in alphabetical order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "unlearn")}
