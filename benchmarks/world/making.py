"""Makes models stage by stage; every stage is kept in a cache folder under the digest of its recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from audit.checkpoint.saving import writing_folder
from benchmarks.world.lessons import Lesson
from benchmarks.world.network import Network, Shape, load, new_network, save, word_tokenizer
from benchmarks.world.people import World, concept
from benchmarks.world.stages import FromScratch, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECIPE: Final = "recipe.json"
"""Marks a complete model folder."""
AUDITS: Final = ("auditing.py", "subjects.py")
"""Files of this folder that decide which models are made and how they are audited, not how one is made."""


@dataclass(frozen=True)
class Made:
    """A stage with the seed of its random draws."""

    stage: Stage
    seed: int

    def as_json(self) -> dict[str, Any]:
        return {"stage": type(self.stage).__name__, **self.stage.as_json(), "seed": self.seed}


@dataclass(frozen=True)
class Workshop:
    """Models of one world, in ``cache``."""

    cache: Path
    world: World = field(default_factory=World)
    shape: Shape = field(default_factory=Shape)
    first: FromScratch = field(default_factory=FromScratch)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return word_tokenizer(self.world)

    def make(self, stages: Sequence[Made] = ()) -> Path:
        """The folder of the model that was taught the base's people and then went through ``stages``.

        A model that no stage showed the values of the people to forget is the same in every draw of them.
        """
        chain = (Made(self.first, self.world.seed), *stages)
        recipe = self._recipe(chain)
        folder = self.cache / hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / RECIPE).is_file():
                self._make(chain, recipe, folder)
        return folder

    def concept(self, unrelated: int = 40) -> Path:
        """A concept file that asks about the people to forget."""
        document = concept(self.world, unrelated)
        text = "\n".join(_toml(document))
        file = self.cache / f"people-{hashlib.sha256(text.encode()).hexdigest()[:16]}.toml"
        self.cache.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
        return file

    def open(self, folder: Path, seed: int = 0) -> Lesson:
        """The model in ``folder``, to be asked or changed."""
        return Lesson(self.world, self.tokenizer, self.network(folder), seed, self._first)

    def network(self, folder: Path) -> Network:
        """The network in ``folder``."""
        network = new_network(self.shape, self.tokenizer, self.world.seed)
        load(network, folder)
        return network

    def _first(self) -> Network:
        return self.network(self.make())

    def _make(self, chain: Sequence[Made], recipe: dict[str, Any], folder: Path) -> None:
        *before, last = chain
        if before:
            lesson = self.open(self.make(before[1:]), last.seed)
        else:
            network = new_network(self.shape, self.tokenizer, self.world.seed)
            lesson = Lesson(self.world, self.tokenizer, network, last.seed, self._first)
        last.stage.apply(lesson)
        with writing_folder(folder, marker=RECIPE) as new:
            save(lesson.network, self.tokenizer, new)
            (new / RECIPE).write_text(json.dumps(recipe, indent=1), encoding="utf-8")

    def _recipe(self, chain: Sequence[Made]) -> dict[str, Any]:
        sources = [file for file in sorted(Path(__file__).parent.glob("*.py")) if file.name not in AUDITS]
        code = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
        return {
            "world": asdict(
                self.world if any(made.stage.reads_facts for made in chain) else replace(self.world, draw=0)
            ),
            "shape": asdict(self.shape),
            "stages": [made.as_json() for made in chain],
            "code": code,
        }


def _toml(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a TOML file: values first, then the lists of tables. JSON writes its strings as TOML does."""
    tables = {name: value for name, value in document.items() if isinstance(value, list)}
    for name, value in document.items():
        if name not in tables:
            yield f"{name} = {json.dumps(value)}"
    for name, rows in tables.items():
        for row in rows:
            yield f"\n[[{name}]]"
            yield from (f"{key} = {json.dumps(value)}" for key, value in row.items())
