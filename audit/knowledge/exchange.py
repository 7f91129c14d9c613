"""The exchange test: exact p-values for knowledge, without a model that never knew.

A model that never knew the facts has no reason to prefer the true assignment of answers to questions over any other
assignment of answers of one type, and neither has the same model after an attack that did not see these answers. So one
random exchange of answers is drawn and applied to every condition and every place at once, and the largest ``|z|`` over
all of them is compared with the observed one. One p-value pays for every choice. Half of the level may be spent on one
condition that is named beforehand.

Answers are exchanged within cells: facts of one type that an attack treats alike (one half, where an attack trains on
the other). The test is exact for conditions that read the same facts. Where an attack is trained on one half and read
on the other, both ways, each half is exact given the other; the sum of the two treats them as independent. A condition
in which some facts cannot be asked gets the exchange that the same draw induces on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, prod
from typing import Final

import numpy as np
from jaxtyping import Float, Int

DRAWS: Final = 4_999
ROUNDING: Final = 1e-9
"""Draws that equal the observed statistic up to rounding count as reaching it."""


@dataclass(frozen=True)
class Block:
    """Scores of the facts of one type under one condition.

    Attributes:
        facts: index of each fact; row ``i`` and column ``i`` belong to ``facts[i]``.
        scores: score of answer ``j`` after question ``i``, at each place; higher means more likely.
    """

    facts: Int[np.ndarray, " m"]
    scores: Float[np.ndarray, "n_places m m"]


@dataclass(frozen=True)
class Draws:
    """Random exchanges of all facts.

    Attributes:
        keys: facts of a cell are exchanged so that their keys are in order ``[n_draws, n_facts]``.
        cell: cell of each fact.
        complete: whether the draws are all possible exchanges, each once.
    """

    keys: Float[np.ndarray, "n_draws n_facts"]
    cell: Int[np.ndarray, " n_facts"]
    complete: bool

    @classmethod
    def of(cls, cell: Int[np.ndarray, " n_facts"], seed: int) -> Draws:
        """All exchanges if there are at most ``DRAWS`` of them, else so many random ones."""
        members = [np.flatnonzero(cell == each) for each in np.unique(cell)]
        if prod(factorial(len(each)) for each in members) > DRAWS:
            return cls(np.random.default_rng(seed).random((DRAWS, len(cell))), cell, complete=False)
        orders = list(product(*(permutations(range(len(each))) for each in members)))
        keys = np.zeros((len(orders), len(cell)))
        for place, each in enumerate(members):
            keys[:, each] = [order[place] for order in orders]
        return cls(keys, cell, complete=True)

    def exchanged(self, facts: Int[np.ndarray, " m"]) -> Int[np.ndarray, "n_draws m"]:
        """For each draw the position (in ``facts``) of the fact whose answer takes the place of each fact's own."""
        places = np.empty((len(self.keys), len(facts)), dtype=np.int64)
        for each in np.unique(self.cell[facts]):
            own = np.flatnonzero(self.cell[facts] == each)
            places[:, own] = own[self.keys[:, facts[own]].argsort(axis=1)]
        return places

    def p_value(self, reached: int) -> float:
        """Share of draws that reach the observed value; random draws count the observed assignment as one more."""
        return reached / len(self.keys) if self.complete else (1 + reached) / (1 + len(self.keys))


@dataclass(frozen=True)
class Exchange:
    """The statistic under one condition and its null.

    Attributes:
        value: mean centred score of the true answers at each place, in the unit of the scores.
        null: the same for each draw.
        z: ``value`` in standard deviations of the null; 0 where that deviation is 0.
        n: number of facts.
    """

    value: Float[np.ndarray, " n_places"]
    null: Float[np.ndarray, "n_places n_draws"]
    n: int

    @property
    def spread(self) -> Float[np.ndarray, " n_places"]:
        deviation: np.ndarray = np.sqrt((self.null**2).mean(axis=1))
        return deviation

    @property
    def z(self) -> Float[np.ndarray, " n_places"]:
        return _standardised(self.value[:, None], self.spread)[:, 0]

    @property
    def null_z(self) -> Float[np.ndarray, "n_places n_draws"]:
        return _standardised(self.null, self.spread)


def exchange(blocks: Sequence[Block], draws: Draws, centre: bool = True) -> Exchange:
    """The mean score of the true answers over all facts of ``blocks``, compared with exchanged answers.

    Args:
        centre: remove the effects of questions and of answers from the scores (an easy question, a popular answer).
    """
    value, null, n = 0.0, 0.0, 0
    for block in blocks:
        rows = np.arange(len(block.facts))
        scores = centred(block.scores) if centre else block.scores
        value = value + scores[:, rows, rows].sum(axis=-1)
        null = null + scores[:, rows, draws.exchanged(block.facts)].sum(axis=-1)
        n += len(rows)
    return Exchange(np.asarray(value) / n, np.asarray(null) / n, n)


def centred(scores: Float[np.ndarray, "*places m m"]) -> Float[np.ndarray, "*places m m"]:
    """``scores`` with row and column means removed."""
    rows, columns = scores.mean(axis=-1, keepdims=True), scores.mean(axis=-2, keepdims=True)
    result: np.ndarray = scores - rows - columns + scores.mean(axis=(-1, -2), keepdims=True)
    return result


def ranks(scores: Float[np.ndarray, "*places m m"]) -> Float[np.ndarray, "*places m m"]:
    """Rank of each answer after each question, by centred score: 0 for the best, 1 for the last; ties share a rank.

    An answer that equals the ranked one (two facts may have the same answer) ties with it.
    """
    values = centred(scores)
    better = (values[..., :, None, :] > values[..., :, :, None] + ROUNDING).sum(axis=-1)
    tied = (np.abs(values[..., :, None, :] - values[..., :, :, None]) <= ROUNDING).sum(axis=-1) - 1
    result: np.ndarray = (better + 0.5 * tied) / (scores.shape[-1] - 1)
    return result


@dataclass(frozen=True)
class Omnibus:
    """The exchange test over all conditions and places together.

    Attributes:
        best: name of the condition, and the place in it, with the smallest ``corrected``.
        z: there; negative if the truth is avoided.
        p_value: the smallest ``corrected``: one number for all of them.
        corrected: for each condition and place, the share of draws whose largest ``|z|`` reaches this place's; doubled
            where half of the level is spent on the primary condition.
    """

    best: tuple[str, int]
    z: float
    p_value: float
    corrected: Mapping[str, Float[np.ndarray, " n_places"]]


def omnibus(tests: Mapping[str, Exchange], draws: Draws, primary: str | None = None) -> Omnibus:
    """One p-value for the tests of all conditions; they must come from the same ``draws``.

    Args:
        primary: a condition named beforehand. Half of the level is spent on its first place alone, one-sided (the truth
            preferred), so that many further conditions do not hide what it shows.
    """
    largest = np.max([np.abs(test.null_z).max(axis=0) for test in tests.values()], axis=0)
    share = 1 if primary is None else 2
    corrected = {}
    for name, test in tests.items():
        reached = [int((largest >= z - ROUNDING).sum()) for z in np.abs(test.z)]
        corrected[name] = np.array([min(1.0, share * draws.p_value(count)) for count in reached])
    if primary is not None:
        test = tests[primary]
        alone = share * draws.p_value(int((test.null_z[0] >= test.z[0] - ROUNDING).sum()))
        corrected[primary][0] = min(corrected[primary][0], alone)
    places = [(name, place) for name, values in corrected.items() for place in range(len(values))]
    name, place = min(places, key=lambda each: (corrected[each[0]][each[1]], -abs(tests[each[0]].z[each[1]])))
    return Omnibus((name, place), float(tests[name].z[place]), float(corrected[name][place]), corrected)


def _standardised(
    values: Float[np.ndarray, "n_places n"], spread: Float[np.ndarray, " n_places"]
) -> Float[np.ndarray, "n_places n"]:
    z: np.ndarray = np.where(spread[:, None] > 0, values / np.where(spread > 0, spread, 1)[:, None], 0.0)
    return z
