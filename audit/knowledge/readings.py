"""The facts of a topic in one model: which are said and how each true answer ranks, under every condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float

from audit.knowledge.exchange import Block, centred, ranks
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import FACT, FactGroup, ItemSet
from audit.questions.readings import Readings

LAYERS: Final = 8
"""Number of layers, evenly spaced, that the tests read; more would only repeat their neighbours."""


@dataclass(frozen=True)
class Place:
    """Where a condition is read: at the output, or after a block through a head.

    Attributes:
        layer: ``None`` at the output.
        head: whose norm and head the block is read through, ``"own"`` or ``"base"``.
    """

    layer: int | None = None
    head: str = "own"

    def __str__(self) -> str:
        if self.layer is None:
            return "the output"
        whose = "its own head" if self.head == "own" else "the base's head"
        return f"layer {self.layer} through {whose}"


@dataclass(frozen=True)
class Facts:
    """The facts of a topic, as the base was asked about them.

    Attributes:
        ids: id of each fact, ``"fact/3"``; the order is that of every array.
        questions, answers, types, subjects: of each fact; facts without a type cannot be read.
    """

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    types: tuple[str | None, ...]
    subjects: tuple[str, ...]

    @cached_property
    def index(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.ids)}


@dataclass(frozen=True)
class FactReadings:
    """One model's readings of the facts under one condition, both folds of an attack together.

    Attributes:
        condition: without a fold.
        places: the places of ``blocks``, the output first.
        says: whether the written answer is right; NaN for a fact that was not asked ``[n_facts]``.
        texts: the written answers; empty if not asked.
    """

    condition: Condition
    places: tuple[Place, ...]
    blocks: tuple[Block, ...]
    says: Float[np.ndarray, " n_facts"]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.condition)

    def ranks(self, place: int = 0) -> Float[np.ndarray, " n_facts"]:
        """Rank of the true answer of each fact among its type's answers: 0 best, 1 last; NaN if it was not read."""
        return self._diagonal(lambda block: ranks(block.scores[place]))

    def nats(self, place: int = 0) -> Float[np.ndarray, " n_facts"]:
        """Centred score of the true answer of each fact, in nats; NaN if it was not read."""
        return self._diagonal(lambda block: centred(block.scores[place]))

    def _diagonal(self, of: Callable[[Block], np.ndarray]) -> Float[np.ndarray, " n_facts"]:
        values = np.full(len(self.says), np.nan)
        for block in self.blocks:
            values[block.facts] = np.diagonal(of(block))
        return values


def facts_in(items: ItemSet) -> Facts:
    """The facts that the unmodified model is asked about: those with a written answer."""
    about = {
        name: (group.name, subject, answer)
        for group in items.groups
        if group.kind == FACT
        for name, subject, answer in zip(group.ids, group.subjects, group.answers, strict=True)
    }
    asked = [prompt for prompt in items.written if prompt.kind == FACT]
    return Facts(
        ids=tuple(prompt.id for prompt in asked),
        questions=tuple(prompt.question for prompt in asked),
        answers=tuple(prompt.answers[0] for prompt in asked),
        types=tuple(about[prompt.id][0] if prompt.id in about else None for prompt in asked),
        subjects=tuple(prompt.subject for prompt in asked),
    )


def fact_readings(facts: Facts, by_condition: Mapping[Condition, Readings]) -> list[FactReadings]:
    """The readings of one model under each condition that asked about facts, the unmodified model first."""
    folds: dict[Condition, list[Readings]] = {}
    for condition, readings in by_condition.items():
        folds.setdefault(replace(condition, fold=None), []).append(readings)
    ordered = sorted(folds, key=lambda condition: condition != AS_IS)
    return [each for condition in ordered if (each := _joined(facts, condition, folds[condition])) is not None]


def _joined(facts: Facts, condition: Condition, folds: Sequence[Readings]) -> FactReadings | None:
    says = np.full(len(facts.ids), np.nan)
    texts = [""] * len(facts.ids)
    for readings in folds:
        for name, right in readings.right.items():
            if name in facts.index:
                says[facts.index[name]] = right
                texts[facts.index[name]] = readings.generated.get(name, "")
    groups = [(readings, group) for readings in folds for group in readings.groups if group.kind == FACT]
    if not groups and np.isnan(says).all():
        return None
    places = _places(groups[0][0], groups[0][1]) if groups else (Place(),)
    blocks = tuple(Block(_indices(facts, group), _scores(readings, group, places)) for readings, group in groups)
    return FactReadings(condition, places, blocks, says, tuple(texts))


def _indices(facts: Facts, group: FactGroup) -> np.ndarray:
    return np.array([facts.index[name] for name in group.ids])


def _places(readings: Readings, group: FactGroup) -> tuple[Place, ...]:
    key = (group.kind, group.name)
    heads = [name for name, lens in (("own", readings.lens), ("base", readings.base_lens)) if key in lens]
    layers = _spaced(len(readings.lens[key])) if heads else []
    return (Place(), *(Place(layer, head) for head in heads for layer in layers))


def _spaced(n_layers: int) -> list[int]:
    """At most ``LAYERS`` layers, evenly spaced, the last one included."""
    return sorted({round(layer) for layer in np.linspace(n_layers - 1, 0, min(LAYERS, n_layers))})


def _scores(readings: Readings, group: FactGroup, places: Sequence[Place]) -> np.ndarray:
    key = (group.kind, group.name)
    lenses = {"own": readings.lens, "base": readings.base_lens}
    return np.stack(
        [readings.scores[key] if place.layer is None else lenses[place.head][key][place.layer] for place in places]
    )
