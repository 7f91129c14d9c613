"""The one registry: every module of a folder that implements the folder's contract, checked when it is imported.

A folder of plugins holds one plugin in each file. A file whose name begins with an underscore is shared by the plugins
and is not one itself. A file that breaks the contract fails at once, with an error that names the file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from inspect import Parameter
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

Plugin = TypeVar("Plugin")


class PluginError(TypeError):
    """A file in a folder of plugins that breaks the folder's contract."""


def discover(package: str, contract: type[Plugin]) -> dict[str, Plugin]:
    """File name -> module of every plugin in the folder ``package``, in alphabetical order.

    Args:
        package: dotted name of the folder, e.g. ``"audit.attacks"``.
        contract: a ``Protocol`` with the constants and functions that each file must define.

    Raises:
        PluginError: a file does not define one of these names, defines a function's name as something that cannot be
            called, or as a function that does not take the arguments of the contract.
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
            raise PluginError(
                f"{module.__name__} does not define {name}, which the contract {contract.__name__} requires."
            )
        expected = getattr(contract, name, None)
        if inspect.isfunction(expected):
            _check_function(f"{module.__name__}.{name}", getattr(module, name), expected, contract.__name__)


def _check_function(where: str, function: object, expected: Callable[..., Any], contract: str) -> None:
    if not callable(function):
        raise PluginError(f"{where} is not a function; the contract {contract} requires one.")
    parameters = list(inspect.signature(expected).parameters.values())[1:]  # without self
    positional = [
        each.name for each in parameters if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    keywords = {each.name: each.name for each in parameters if each.kind is Parameter.KEYWORD_ONLY}
    try:
        inspect.signature(function).bind(*positional, **keywords)
    except TypeError as error:
        arguments = ", ".join([*positional, *(f"{name}=" for name in keywords)])
        raise PluginError(
            f"{where} does not take ({arguments}) as the contract {contract} requires: {error}."
        ) from error


def _required(contract: type[Any]) -> list[str]:
    """The public names that a protocol and its base protocols define."""
    bases = [base for base in contract.__mro__ if base not in (object, Protocol) and base.__module__ != "typing"]
    names = (name for base in reversed(bases) for name in (*vars(base).get("__annotations__", ()), *vars(base)))
    return list(dict.fromkeys(name for name in names if not name.startswith("_")))
