"""Prompts of many kinds that a region in key space is fitted against, in addition to the other skills."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from concepts.files import read_toml

FILE = Path(__file__).parent / "data" / "background_prompts.toml"


@cache
def load_background() -> tuple[str, ...]:
    """All prompts of ``data/background_prompts.toml``."""
    return tuple(prompt for kind in read_toml(FILE).values() for prompt in kind["prompts"])
