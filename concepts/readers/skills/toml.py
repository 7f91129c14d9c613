"""The tool's own layout as TOML, with the fields of ``Skill``."""

from __future__ import annotations

from pathlib import Path

from concepts.files import read_toml
from concepts.skill import Skill, parse_skill

TITLE = "the tool's own layout"
LAYOUT = "FILE.toml"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def read(path: Path) -> Skill:
    return parse_skill(read_toml(path), path)
