"""The one registry: the files of a folder that keep one contract, found by looking and checked when they are imported.

A folder of plugins holds one plugin a file. Files whose names begin with an underscore are shared by their siblings and
are no plugins. A file that lacks something that the contract names fails at once, with its own name in the message.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

Plugin = TypeVar("Plugin")


class PluginError(TypeError):
    """A file of a folder of plugins that breaks the folder's contract."""


def discover(package: str, contract: type[Plugin]) -> dict[str, Plugin]:
    """File name -> module, for every plugin of the folder ``package``, in alphabetical order.

    Args:
        package: dotted name of the folder, e.g. ``"audit.attacks"``.
        contract: a ``Protocol`` of the names that each file defines: constants and functions.

    Raises:
        PluginError: a file lacks one of these names, or has a function's name for something that cannot be called.
    """
    folder = importlib.import_module(package)
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__) if not info.name.startswith("_"))
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names}
    for module in modules.values():
        _check(module, contract)
    return cast("dict[str, Plugin]", modules)


def _check(module: ModuleType, contract: type[Any]) -> None:
    for name in _required(contract):
        if not hasattr(module, name):
            raise PluginError(f"{module.__name__} defines no {name}, which {contract.__name__} asks of every file.")
        if callable(getattr(contract, name, None)) and not callable(getattr(module, name)):
            raise PluginError(f"{module.__name__}.{name} is not callable; {contract.__name__} says what it takes.")


def _required(contract: type[Any]) -> list[str]:
    """The names that a protocol and the protocols it extends ask for."""
    bases = [base for base in contract.__mro__ if base not in (object, Protocol) and base.__module__ != "typing"]
    names = (name for base in reversed(bases) for name in (*vars(base).get("__annotations__", ()), *vars(base)))
    return list(dict.fromkeys(name for name in names if not name.startswith("_")))
