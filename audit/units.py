"""Finished units of an audit on disk: one model's readings of the facts under one condition of an attack.

Keys are digests of everything that determines the numbers, so a rerun after an interruption, or another audit with the
same base, takes what is there and computes the rest. Files hold numbers and JSON; nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from audit.questions.conditions import Condition
from audit.questions.items import ItemSet
from audit.questions.readings import Key, Readings
from audit.result.files import write_bytes

ARRAYS: Final = ("scores", "lens", "base_lens")


@dataclass(frozen=True)
class UnitStore:
    """A folder of units.

    Attributes:
        inputs: what all units of one model and one topic have in common, as JSON values.
    """

    folder: Path
    inputs: Mapping[str, Any]

    def load(self, condition: Condition, items: ItemSet) -> Readings | None:
        """The readings under ``condition``; ``None`` if they are not there, or the file is damaged."""
        path = self._path(condition)
        try:
            with np.load(path, allow_pickle=False) as stored:
                texts = json.loads(bytes(stored["texts"]).decode())
                scores, lens, base_lens = (_arrays(stored, name, items) for name in ARRAYS)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        return Readings(
            groups=items.groups,
            prompts={prompt.id: prompt.question for prompt in items.written},
            answers={prompt.id: prompt.answers for prompt in items.written},
            skipped=items.skipped,
            generated=texts["generated"],
            right=texts["right"],
            scores=scores,
            lens=lens,
            base_lens=base_lens,
        )

    def save(self, condition: Condition, readings: Readings) -> None:
        """Write the readings; an interrupted write leaves nothing behind."""
        texts = json.dumps({"generated": dict(readings.generated), "right": dict(readings.right)})
        arrays = {
            f"{name}/{place}": values
            for name in ARRAYS
            for place, values in enumerate(getattr(readings, name).values())
        }
        stream = io.BytesIO()
        np.savez(stream, texts=np.frombuffer(texts.encode(), dtype=np.uint8), **arrays)
        write_bytes(self._path(condition), stream.getvalue())

    def _path(self, condition: Condition) -> Path:
        parts = [condition.attack, condition.dose, condition.seed, condition.fold]
        document = json.dumps([dict(self.inputs), parts, code_digest()], sort_keys=True)
        return self.folder / f"{hashlib.sha256(document.encode()).hexdigest()}.npz"


def _arrays(stored: Mapping[str, np.ndarray], name: str, items: ItemSet) -> dict[Key, np.ndarray]:
    """The arrays of one kind by group; there are none where the condition was read without them."""
    keys = [(group.kind, group.name) for group in items.groups]
    return {key: stored[f"{name}/{place}"] for place, key in enumerate(keys) if f"{name}/{place}" in stored}


@cache
def code_digest() -> str:
    """SHA-256 of the sources that an audit runs, so that a changed tool audits again."""
    digest = hashlib.sha256()
    for package in ("audit", "concepts"):
        for file in sorted(Path(str(resources.files(package))).rglob("*")):
            if file.suffix in (".py", ".toml", ".txt", ".gz"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
