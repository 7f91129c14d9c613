"""Checks the array shapes in signatures whenever a test calls the function; all other types are left to mypy.

``pyproject.toml`` hands ``check_shapes`` to jaxtyping's import hook. A general checker (beartype, typeguard) on every
annotation does not work here: many names are imported for type checkers only, most protocols cannot be tested at run
time, and tests pass doubles on purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

from beartype.door import is_bearable
from jaxtyping import AbstractArray


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, raising ``TypeError`` where an argument or the result does not have its declared shape or dtype."""
    hints = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not hints:
        return function
    returned = hints.pop("return", None)
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        values = signature.bind(*args, **kwargs).arguments
        for name, hint in hints.items():
            if name in values and not is_bearable(values[name], hint):
                raise TypeError(f"{name} is not {hint}")
        result = function(*args, **kwargs)
        if returned is not None and not is_bearable(result, returned):
            raise TypeError(f"the result is not {returned}")
        return result

    return checked


def has_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))
