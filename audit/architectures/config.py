"""``Config``, the content of a model's config.json, and the checks of it against the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

from audit.architectures.family import Family
from audit.architectures.fit import Fit
from audit.errors import CheckpointError

Config: TypeAlias = Mapping[str, Any]
"""The content of config.json. Its values are ``Any`` because each family defines its own keys; a value is checked where
it is read."""


def refuse_variants(fit: Fit, config: Config | None) -> None:
    """Refuse a variant of the family that is not supported.

    Raises:
        CheckpointError: a value in the config or a tensor's name marks such a variant.
    """
    for key, values in fit.family.unsupported_config.items():
        stated = json.dumps((config or {}).get(key))
        if stated in values:
            raise CheckpointError(f"config.json has {key} = {stated}: {values[stated]}, which is not supported.")
    for name, variant in fit.unsupported:
        raise CheckpointError(f"contains {name}: {variant}, which is not supported.")


def check_sizes(family: Family, config: Config, sizes: Mapping[str, int]) -> None:
    """Compare every size that the config states with the tensors' shapes.

    Args:
        sizes: dimension symbol -> size in the file.

    Raises:
        CheckpointError: the two differ, or a size in the config is not a positive whole number.
    """
    for symbol, keys in family.config.items():
        stated = _stated_size(keys, config)
        if stated is None and symbol in family.config_defaults:
            keys = family.config_defaults[symbol]
            stated = _stated_size(keys, config)
        if stated is not None and stated != sizes[symbol]:
            raise CheckpointError(
                f"config.json says {keys} = {stated:,}, but the file has {sizes[symbol]:,}.",
                hint="Pass the config that belongs to these weights with --config.",
            )


def _stated_size(keys: str, config: Config) -> int | None:
    """The product of ``keys`` (or whole numbers) joined by ``*``; ``None`` if the config lacks one of the keys."""
    factors = []
    for key in keys.split(" * "):
        value = int(key) if key.isdigit() else config.get(key)
        if value is None:
            return None
        if type(value) is not int or value < 1:
            raise CheckpointError(f"config.json has {key} = {value!r}, which is not a positive whole number.")
        factors.append(value)
    return prod(factors)
