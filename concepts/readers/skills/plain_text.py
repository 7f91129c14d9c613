"""Plain text with a query on each line, whatever the file's ending."""

from __future__ import annotations

from pathlib import Path

from concepts.files import read_unpacked
from concepts.readers.skills._json import is_json
from concepts.skill import Skill, parse_skill

TITLE = "plain text"
LAYOUT = "a query on each line"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return path.suffix.lower() != ".toml" and not is_json(read_unpacked(path))


def read(path: Path) -> Skill:
    lines = read_unpacked(path).splitlines()
    return parse_skill({"queries": [{"prompt": line.strip()} for line in lines if line.strip()]}, path)
