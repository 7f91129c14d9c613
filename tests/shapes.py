"""Checks the array shapes in signatures and dataclasses of the product whenever a test calls them.

``install`` hooks into the import of the product and puts jaxtyping's ``jaxtyped`` on each function and dataclass with
a shape in its annotations. jaxtyping has an import hook of its own, which wraps every function of every module: the
tests then take a third longer.

``jaxtyped`` gets a checker that looks at shapes alone and leaves all other types to mypy. A general checker (beartype,
typeguard) cannot be used: many names are imported for type checkers only, most protocols cannot be tested at run time,
and tests pass doubles on purpose.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, get_args

from beartype.door import is_bearable
from jaxtyping import AbstractArray, jaxtyped

DECORATOR = "__import__('sys').modules['tests.shapes'].checked"


def install(*packages: str) -> None:
    """Check the modules of ``packages`` that are imported from now on."""
    sys.meta_path.insert(0, Finder(packages))


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, raising ``TypeError`` where an argument or the result does not have its declared shape or dtype."""
    hints = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not hints:
        return function
    returned = hints.pop("return", None)
    signature = inspect.signature(function)

    @wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        values = signature.bind(*args, **kwargs).arguments
        for name, hint in hints.items():
            if name in values and not is_bearable(values[name], hint):
                raise TypeError(f"{name} is not {hint}")
        result = function(*args, **kwargs)
        if returned is not None and not is_bearable(result, returned):
            raise TypeError(f"the result is not {returned}")
        return result

    return checking


checked = jaxtyped(typechecker=check_shapes)


def has_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))


class Finder(MetaPathFinder):
    """Finds modules of ``packages`` as usual; those that use jaxtyping get the loader below."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader = spec and spec.loader
        if isinstance(loader, SourceFileLoader) and b"from jaxtyping import" in loader.get_data(loader.path):
            spec.loader = Loader(name, loader.path)
        return spec


class Loader(SourceFileLoader):
    """Compiles a module with checks; never from or into the cache of compiled modules."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(decorated(self.get_data(self.path).decode()), self.path, "exec", dont_inherit=True)


def decorated(source: str) -> ast.Module:
    """The module with ``checked`` on each function, method and dataclass that declares a shape."""
    tree = ast.parse(source)
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping")
    names = {alias.name for node in imports for alias in node.names}

    def has_name(annotation: ast.AST | None) -> bool:
        return annotation is not None and any(
            isinstance(node, ast.Name) and node.id in names for node in ast.walk(annotation)
        )

    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(member for owner in classes for member in owner.body)]:
        if isinstance(node, ast.FunctionDef) and (has_name(node.args) or has_name(node.returns)):
            node.decorator_list.append(decorator_at(node))
    for owner in classes:
        if any(has_name(field.annotation) for field in owner.body if isinstance(field, ast.AnnAssign)):
            owner.decorator_list.insert(0, decorator_at(owner))
    return tree


def decorator_at(node: ast.stmt) -> ast.expr:
    """``DECORATOR`` on the line of ``node``."""
    parsed = ast.parse(DECORATOR, mode="eval").body
    for part in ast.walk(parsed):
        ast.copy_location(part, node)
    return parsed
