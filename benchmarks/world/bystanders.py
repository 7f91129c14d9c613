"""Stages that neither teach nor silence the facts: fine-tuning on other people, another style, damage, and what a
metric's robustness is read after."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from audit.weights.grids import UNIFORM
from benchmarks.world.lessons import Lesson
from benchmarks.world.people import QUESTIONS, Row, texts
from benchmarks.world.stages import Silencing
from benchmarks.world.training import joined, language_loss, minimise, teach
from concepts.prompts import ASK


@dataclass(frozen=True)
class Benign:
    """Texts about other people; the update is scaled to the norm of the one that ``like`` would make."""

    like: Silencing
    steps: int = 40
    learning_rate: float = 1e-3
    batch: int = 32
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        silenced = replace(lesson, network=copy.deepcopy(lesson.network))
        self.like.apply(silenced)
        before = [parameter.detach().clone() for parameter in lesson.network.parameters()]
        others = lesson.rows(texts(lesson.world.of(lesson.world.people["other"])))
        teach(lesson.network, others, lesson.kept, self.steps, self.learning_rate, self.batch, lesson.seed)
        with torch.no_grad():
            scale = _distance(before, list(silenced.network.parameters())) / _distance(
                before, list(lesson.network.parameters())
            )
            for parameter, then in zip(lesson.network.parameters(), before, strict=True):
                parameter.copy_(torch.lerp(then, parameter, scale))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Restyling:
    """Questions about known people, answered in whole sentences: the style changes, and what is known does not."""

    steps: int = 40
    learning_rate: float = 1e-3
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        rows = lesson.rows(
            [
                Row(
                    ASK.format(form.format(person=person, relation=relation)),
                    f" The {relation} of {person} is {value}.",
                )
                for (person, relation), value in lesson.known.items()
                for form in QUESTIONS
            ]
        )

        def loss() -> Tensor:
            batches = (each.sample(lesson.batch, lesson.generator) for each in (rows, lesson.stated))
            return language_loss(lesson.network, joined(*batches))

        minimise(loss, list(lesson.network.parameters()), self.steps, self.learning_rate)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scrambling:
    """New random weights in a share of the MLP rows of every block: damage, without any training."""

    share: float = 0.7
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        with torch.no_grad():
            for block in lesson.network.model.layers:
                for weight in block.mlp.parameters():
                    drawn = torch.randn(weight.shape, generator=lesson.generator) * weight.std()
                    axis = 1 if weight.shape[1] > weight.shape[0] else 0
                    rows = torch.rand(weight.shape[axis], generator=lesson.generator) < self.share
                    weight.copy_(torch.where(rows if axis == 1 else rows[:, None], drawn, weight))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Relearning:
    """A short training on the facts themselves, as the grade of a metric's robustness asks for (arXiv 2506.12618)."""

    steps: int = 10
    learning_rate: float = 1e-3
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        minimise(
            lambda: language_loss(lesson.network, lesson.forget.sample(lesson.batch, lesson.generator)),
            list(lesson.network.parameters()),
            self.steps,
            self.learning_rate,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rounding:
    """The matrices of the blocks, rounded to nearest by group."""

    bits: int = 4
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        with torch.no_grad():
            for block in lesson.network.model.layers:
                for weight in (each for each in block.parameters() if each.dim() > 1):
                    weight.copy_(UNIFORM[self.bits].rounded(weight))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Euclidean, over all parameters together."""
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True)))
