"""The facts of a topic in one model: which are said and how each true answer ranks, under every condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from audit.knowledge.exchange import Block, centred, ranks
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import FACT, FactGroup
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

    @property
    def is_blind(self) -> bool:
        """Whether the readout never saw the facts.

        The base's head did: training moved the row of an answer towards the states at its question, so a model that
        never knew seems to know when it is read through it.
        """
        return self.head == "own"

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
        fold: the fold in which each fact was read; -1 for none ``[n_facts]``.
        trained_loss: see ``AttackedModel``; the mean over the folds.
    """

    condition: Condition
    places: tuple[Place, ...]
    blocks: tuple[Block, ...]
    says: Float[np.ndarray, " n_facts"]
    fold: Int[np.ndarray, " n_facts"]
    trained_loss: tuple[float, float] | None = None

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


def facts_in(readings: Readings) -> Facts:
    """The facts that the unmodified base was asked; the questions of a topic that has no facts (a skill's queries)."""
    kind = FACT if any(name.startswith(f"{FACT}/") for name in readings.right) else "target"
    about = {
        name: (group.name, subject)
        for group in readings.groups
        if group.kind == FACT
        for name, subject in zip(group.ids, group.subjects, strict=True)
    }
    ids = tuple(name for name in readings.right if name.startswith(f"{kind}/"))
    return Facts(
        ids=ids,
        questions=tuple(readings.prompts[name] for name in ids),
        answers=tuple(next(iter(readings.answers.get(name, ())), "") for name in ids),
        types=tuple(about[name][0] if name in about else None for name in ids),
        subjects=tuple(about[name][1] if name in about else readings.prompts[name] for name in ids),
    )


def fact_readings(facts: Facts, by_condition: Mapping[Condition, Readings]) -> dict[str, FactReadings]:
    """Name of the condition -> one model's readings, for each condition that asked about facts; ``AS_IS`` first."""
    folds: dict[Condition, list[tuple[Condition, Readings]]] = {}
    for condition, readings in by_condition.items():
        folds.setdefault(replace(condition, fold=None), []).append((condition, readings))
    ordered = sorted(folds, key=lambda condition: condition != AS_IS)
    joined = (_joined(facts, condition, folds[condition]) for condition in ordered)
    return {each.name: each for each in joined if each is not None}


def _joined(facts: Facts, condition: Condition, folds: Sequence[tuple[Condition, Readings]]) -> FactReadings | None:
    says = np.full(len(facts.ids), np.nan)
    fold = np.full(len(facts.ids), -1)
    for each, readings in folds:
        for name, right in readings.right.items():
            if name in facts.index:
                says[facts.index[name]] = right
        for group in readings.groups:
            fold[_indices(facts, group)] = -1 if each.fold is None else each.fold
    groups = [
        (readings, group) for _, readings in folds for group in readings.groups if len(_indices(facts, group)) > 1
    ]
    if not groups and np.isnan(says).all():
        return None
    places = _places(*groups[0]) if groups else (Place(),)
    blocks = tuple(Block(_indices(facts, group), _scores(facts, readings, group, places)) for readings, group in groups)
    losses = [readings.trained_loss for _, readings in folds if readings.trained_loss is not None]
    return FactReadings(condition, places, blocks, says, fold, _mean_of(losses) if losses else None)


def _mean_of(losses: Sequence[tuple[float, float]]) -> tuple[float, float]:
    before, after = np.mean(losses, axis=0).tolist()
    return before, after


def _chosen(facts: Facts, group: FactGroup) -> list[int]:
    """Rows of the group that are among ``facts``."""
    return [row for row, name in enumerate(group.ids) if group.kind == FACT and name in facts.index]


def _indices(facts: Facts, group: FactGroup) -> Int[np.ndarray, " m"]:
    return np.array([facts.index[group.ids[row]] for row in _chosen(facts, group)], dtype=np.int64)


def _places(readings: Readings, group: FactGroup) -> tuple[Place, ...]:
    key = (group.kind, group.name)
    heads = [(name, lens[key]) for name, lens in (("own", readings.lens), ("base", readings.base_lens)) if key in lens]
    return (Place(), *(Place(layer, head) for head, lens in heads for layer in _spaced(len(lens))))


def _spaced(n_layers: int) -> list[int]:
    """At most ``LAYERS`` layers, evenly spaced, the last one included."""
    return sorted({round(layer) for layer in np.linspace(n_layers - 1, 0, min(LAYERS, n_layers))})


def _scores(
    facts: Facts, readings: Readings, group: FactGroup, places: Sequence[Place]
) -> Float[np.ndarray, "n_places m m"]:
    key = (group.kind, group.name)
    lenses = {"own": readings.lens, "base": readings.base_lens}
    scores = [readings.scores[key] if place.layer is None else lenses[place.head][key][place.layer] for place in places]
    rows = _chosen(facts, group)
    return np.stack(scores)[:, rows][:, :, rows]
