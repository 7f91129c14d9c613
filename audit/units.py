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
from audit.questions.readings import Readings
from audit.result.files import write_bytes

JUDGING: Final = ("audit/verdict/", "audit/calibration.")
"""Sources that judge what was measured: the verdict's rules and their calibration."""
AFTER_READING: Final = (
    *JUDGING,
    *(f"audit/knowledge/{name}.py" for name in ("beliefs", "klom", "knowledge", "margins", "residual", "summary")),
)
"""Sources that no unit depends on: what is made of readings later."""
BY_GROUP: Final = ("scores", "lens", "base_lens")
BY_ITEM: Final = ("answer_logprobs", "answer_hits")


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
        stored = self._stored(condition)
        if stored is None:
            return None
        texts, arrays = stored
        groups = [(group.kind, group.name) for group in items.groups]
        try:
            scored = [[arrays[f"{name}/{place}"] for place in range(len(items.items))] for name in BY_ITEM]
        except KeyError:  # of other items
            return None
        by_group = {
            name: {key: arrays[f"{name}/{place}"] for place, key in enumerate(groups) if f"{name}/{place}" in arrays}
            for name in BY_GROUP
        }
        return Readings(
            items=items.items,
            answer_logprobs=tuple(scored[0]),
            answer_hits=tuple(scored[1]),
            keys={kind: arrays[f"keys/{place}"] for place, kind in enumerate(texts["keys"])},
            groups=items.groups,
            scores=by_group["scores"],
            lens=by_group["lens"],
            base_lens=by_group["base_lens"],
            generated=texts["generated"],
            right=texts["right"],
            prompts={prompt.id: prompt.question for prompt in items.written},
            answers={prompt.id: prompt.answers for prompt in items.written},
            skipped=items.skipped,
            sentences_left_out=items.sentences_left_out,
            trained_loss=None if texts["trained_loss"] is None else tuple(texts["trained_loss"]),
        )

    def generated(self, condition: Condition) -> dict[str, str] | None:
        """The answers that were written under ``condition``."""
        stored = self._stored(condition)
        return None if stored is None else stored[0]["generated"]

    def save(self, condition: Condition, readings: Readings) -> None:
        """Write the readings; an interrupted write leaves nothing behind."""
        named = {name: list(getattr(readings, name).values()) for name in ("keys", *BY_GROUP)}
        named |= {name: list(getattr(readings, name)) for name in BY_ITEM}
        texts = {
            "generated": dict(readings.generated),
            "right": dict(readings.right),
            "keys": list(readings.keys),
            "trained_loss": readings.trained_loss,
        }
        arrays = {f"{name}/{place}": values for name, each in named.items() for place, values in enumerate(each)}
        stream = io.BytesIO()
        np.savez(stream, texts=_as_bytes(texts), **arrays)
        write_bytes(self._path(condition), stream.getvalue())

    def note(self, name: str) -> dict[str, Any] | None:
        """What ``save_note`` wrote."""
        try:
            document: dict[str, Any] = json.loads(self._path(name).read_bytes())
        except (OSError, ValueError):
            return None
        return document

    def save_note(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON object."""
        write_bytes(self._path(name), json.dumps(document).encode())

    def _stored(self, condition: Condition) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        try:
            with np.load(self._path(condition), allow_pickle=False) as stored:
                return json.loads(bytes(stored["texts"]).decode()), {name: stored[name] for name in stored.files}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def _path(self, unit: Condition | str) -> Path:
        parts = unit if isinstance(unit, str) else [unit.attack, unit.dose, unit.seed, unit.fold]
        return self.folder / f"{digest_of([dict(self.inputs), parts, code_digest(AFTER_READING)])}.npz"


def _as_bytes(document: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)


def digest_of(document: Any) -> str:
    """SHA-256 of JSON values, as which all others are written by ``str``."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_digest(without: tuple[str, ...] = ()) -> str:
    """SHA-256 of the sources that an audit runs, so that a changed tool audits again.

    Args:
        without: what paths of sources that do not count begin with.
    """
    digest = hashlib.sha256()
    for package in ("audit", "concepts"):
        root = Path(str(resources.files(package)))
        for file in sorted(root.rglob("*")):
            counts = not file.relative_to(root.parent).as_posix().startswith(without)
            if counts and file.suffix in (".py", ".toml", ".txt", ".gz", ".json"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
