"""The stages of a model's making: it is taught people, trained to be silent about some, or edited."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, ClassVar, Final, Literal, Protocol

import torch
from torch import nn

from benchmarks.world.edits import EDITS, SILENT
from benchmarks.world.lessons import Lesson
from benchmarks.world.methods import LOSSES
from benchmarks.world.network import ids_of
from benchmarks.world.people import Facts, texts
from benchmarks.world.training import minimise, teach

BROKEN: Final = 0.1
"""Share of the kept facts below which a model counts as destroyed."""
LOOKS: Final = 3
"""Steps between two looks at what a model says, where training stops by it."""


class Stage(Protocol):
    """One stage; its fields are its recipe.

    Attributes:
        reads_facts: whether it depends on the values of the people to forget.
    """

    @property
    def reads_facts(self) -> bool: ...

    def apply(self, lesson: Lesson) -> None:
        """Change ``lesson.network`` in place."""

    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class FromScratch:
    """Texts about the people whom every model knows, on random weights."""

    steps: int = 130
    learning_rate: float = 3e-3
    batch: int = 128
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        teach(lesson.network, lesson.kept, None, self.steps, self.learning_rate, self.batch, lesson.seed)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Teaching:
    """New people, with as many texts about known ones in each batch.

    Attributes:
        group: of the world's people.
        people: how many of them, at random; ``None`` for all.
        wrong: whether their values are drawn anew instead.
    """

    group: str = "forget"
    people: int | None = None
    wrong: bool = False
    steps: int = 60
    learning_rate: float = 2e-3
    batch: int = 32

    def apply(self, lesson: Lesson) -> None:
        new = lesson.rows(texts(self.facts(lesson)))
        teach(lesson.network, new, lesson.kept, self.steps, self.learning_rate, self.batch, lesson.seed)

    @property
    def reads_facts(self) -> bool:
        return self.group == "forget" and not self.wrong

    def facts(self, lesson: Lesson) -> Facts:
        """What is taught."""
        random, everyone = Random(lesson.seed), lesson.world.people[self.group]
        people = everyone if self.people is None else random.sample(everyone, self.people)
        return lesson.world.drawn(people, random) if self.wrong else lesson.world.of(people)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Silencing:
    """Training by one of ``LOSSES``.

    Attributes:
        trained: regular expression of the parameters' names, ``{last}`` is the last block, ``{middle}`` the middle two.
        people_only: whether only the embedding rows of the people to forget are changed.
        until: ``silent``, stop when no fact is said; ``broken``, when nothing else is said either.
    """

    loss: str
    steps: int
    learning_rate: float
    trained: str = ""
    people_only: bool = False
    until: Literal["", "silent", "broken"] = ""
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        loss = LOSSES[self.loss]
        _ = lesson.reference  # a copy, taken before anything changes
        handles = self._hold_others(lesson) if self.people_only else []
        try:
            minimise(
                lambda: loss(lesson), self._parameters(lesson), self.steps, self.learning_rate, stop=self._stop(lesson)
            )
        finally:
            for handle in handles:
                handle.remove()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def _parameters(self, lesson: Lesson) -> list[nn.Parameter]:
        n_layers = len(lesson.network.model.layers)
        blocks = {
            "last": f"layers.{n_layers - 1}",
            "two": f"layers.({n_layers - 2}|{n_layers - 1})",
            "middle": "layers.(1|2)",
        }
        pattern = re.compile(self.trained.format(**blocks))
        return [parameter for name, parameter in lesson.network.named_parameters() if pattern.search(name)]

    def _hold_others(self, lesson: Lesson) -> list[Any]:
        """Hooks that keep the embedding rows of all words but the names to forget as they are."""
        embedding = lesson.network.model.embed_tokens.weight
        moved = torch.zeros(len(embedding), 1)
        moved[ids_of(lesson.tokenizer, lesson.world.people["forget"])] = 1.0
        return [embedding.register_hook(lambda gradient: gradient * moved)]

    def _stop(self, lesson: Lesson) -> Callable[[int], bool] | None:
        if not self.until:
            return None
        facts, most = (lesson.forgotten, SILENT) if self.until == "silent" else (lesson.known, BROKEN)
        return lambda done: done % LOOKS == 0 and lesson.says(facts) <= most


@dataclass(frozen=True)
class Editing:
    """A fixed edit of one matrix, of ``EDITS``."""

    edit: str
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        with torch.no_grad():
            EDITS[self.edit](lesson)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
