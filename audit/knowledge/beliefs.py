"""The reference's beliefs as a null: does the unlearned model prefer the true answers more than such guesses explain?

Answers that can be guessed are not exchangeable. Here assignments of answers are drawn as the reference believes them,
``P(assignment) ~ exp(beta * sum of the reference's centred scores)``, by swaps within cells (Metropolis). ``beta`` is
such that the expected score is the one that the reference gives to the truth. A model that guesses as the reference
does then has a uniform p-value, over all conditions and places together.

What makes it wrong: a model that guesses from something the reference does not see (another form of its training data).
So a large p-value explains a preference by guessing, and a small one proves nothing: the verdict does not read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from audit.knowledge.exchange import ROUNDING, Block, Draws, centred, exchange
from audit.knowledge.knowledge import REFERENCE, UNLEARNED, Knowledge
from audit.questions.conditions import AS_IS

CHAINS: Final = 999
"""Each gives one draw."""
SWEEPS: Final = 30
"""Proposed swaps of each chain, for each fact."""
STEEPEST: Final = 8.0
"""Largest ``beta``, per nat: the reference's favourite is then nearly certain."""
STEPS: Final = 10
"""Halvings of the interval in which ``beta`` is searched."""


def belief_p_value(knowledge: Knowledge) -> float | None:
    """The p-value; ``None`` without a reference, or if no answers can be exchanged."""
    reference = knowledge.models.get(REFERENCE, {}).get(str(AS_IS))
    if reference is None or not knowledge.tests:
        return None
    beliefs = Beliefs.of(knowledge.blocks(reference), knowledge.draws.cell)
    if beliefs is None:
        return None
    draws = beliefs.drawn(knowledge.seed)
    observed, null = [], []
    for name in knowledge.tests:
        test = exchange(knowledge.blocks(knowledge.models[UNLEARNED][name], blind=True), draws)
        mean, spread = test.null.mean(axis=1), test.null.std(axis=1)
        told = spread > ROUNDING
        observed.append((test.value - mean)[told] / spread[told])
        null.append((test.null - mean[:, None])[told] / spread[told, None])
    if not sum(map(len, observed)):
        return None
    reached = np.concatenate(null).max(axis=0) >= np.concatenate(observed).max() - ROUNDING
    return float((1 + reached.sum()) / (1 + len(reached)))


@dataclass(frozen=True)
class Beliefs:
    """How likely the reference finds each answer of a cell after each of its questions.

    Attributes:
        scores: centred, in nats; 0 where they were not read ``[n_facts, n_facts]``.
        cells: the facts of each cell with at least two.
        cell: cell of each fact.
    """

    scores: Float[np.ndarray, "n_facts n_facts"]
    cells: tuple[Int[np.ndarray, " _"], ...]
    cell: Int[np.ndarray, " n_facts"]

    @classmethod
    def of(cls, blocks: list[Block], cell: Int[np.ndarray, " n_facts"]) -> Beliefs | None:
        """From the reference's blocks, at the output; ``None`` if no cell has two of their facts."""
        scores, read = np.zeros((len(cell), len(cell))), np.zeros(len(cell), dtype=bool)
        for block in blocks:
            scores[np.ix_(block.facts, block.facts)] = centred(block.scores[0])
            read[block.facts] = True
        members = [np.flatnonzero((cell == each) & read) for each in np.unique(cell)]
        cells = tuple(each for each in members if len(each) > 1)
        return cls(scores, cells, cell) if cells else None

    def drawn(self, seed: int) -> Draws:
        """Assignments drawn with the ``beta`` at which the truth scores as expected."""
        return self._as_draws(self._sampled(self.beta(seed), seed))

    def beta(self, seed: int) -> float:
        """0 if the truth scores no better than a random assignment; at most ``STEEPEST``."""
        facts = np.concatenate(self.cells)
        truth = self.scores[facts, facts].sum()
        low, high = 0.0, STEEPEST
        if self._expected(low, seed) >= truth:
            return 0.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._expected(middle, seed) < truth else (low, middle)
        return (low + high) / 2

    def _expected(self, beta: float, seed: int) -> float:
        facts = np.concatenate(self.cells)
        assigned = self._sampled(beta, seed)
        return float(self.scores[facts, assigned[:, facts]].sum(axis=1).mean())

    def _sampled(self, beta: float, seed: int) -> Int[np.ndarray, "n_chains n_facts"]:
        """For each chain the fact whose answer each fact gets; a chain starts from a random assignment."""
        rng = np.random.default_rng(seed)
        assigned = np.tile(np.arange(len(self.cell)), (CHAINS, 1))
        for each in self.cells:
            assigned[:, each] = rng.permuted(assigned[:, each], axis=1)
        every = np.arange(CHAINS)
        for one, other in self._pairs(rng):
            mine, its = assigned[every, one], assigned[every, other]
            gain = self.scores[one, its] + self.scores[other, mine] - self.scores[one, mine] - self.scores[other, its]
            swapped = np.log(rng.random(CHAINS)) < beta * gain
            assigned[every, one] = np.where(swapped, its, mine)
            assigned[every, other] = np.where(swapped, mine, its)
        return assigned

    def _pairs(self, rng: np.random.Generator) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
        """Two facts of one cell for each chain, again and again; larger cells more often."""
        sizes = np.array([len(each) for each in self.cells])
        padded = np.zeros((len(sizes), sizes.max()), dtype=np.int64)
        for row, each in zip(padded, self.cells, strict=True):
            row[: len(each)] = each
        for _ in range(SWEEPS * int(sizes.sum())):
            chosen = rng.choice(len(sizes), CHAINS, p=sizes / sizes.sum())
            size = sizes[chosen]
            first = (rng.random(CHAINS) * size).astype(np.int64)
            second = (first + 1 + (rng.random(CHAINS) * (size - 1)).astype(np.int64)) % size
            yield padded[chosen, first], padded[chosen, second]

    def _as_draws(self, assigned: Int[np.ndarray, "n_chains n_facts"]) -> Draws:
        """The same assignments as ``Draws``: the fact in place ``k`` of its cell gets the answer with the k-th key."""
        keys = np.zeros(assigned.shape)
        for each in self.cells:
            np.put_along_axis(keys, assigned[:, each], np.arange(len(each), dtype=float)[None], axis=1)
        return Draws(keys, self.cell, complete=False)
