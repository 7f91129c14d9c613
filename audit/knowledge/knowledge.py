"""What base, unlearned, reference and twin know of a topic's facts, and the tests that compare them.

Only facts that the base says count. Where answers may be guessed, facts that the reference says too are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from audit.knowledge.exchange import ROUNDING, Block, Draws, Exchange, Omnibus, centred, exchange, omnibus, ranks
from audit.knowledge.readings import FactReadings, Facts, fact_readings, facts_in
from audit.questions.conditions import AS_IS, Condition
from audit.questions.readings import Readings
from audit.thresholds import SIGNIFICANT

BASE, UNLEARNED, REFERENCE, TWIN = "base", "unlearned", "reference", "twin"
CHAT: Final = "chat"
"""The attack whose condition is another form in which the same model is used, not a treatment of it."""
RELEARNED: Final = "relearning"
"""The attack that brings most back: half of the exchange test's level is spent on it, and after it the unlearned model
is compared with the reference."""
DEPLOYED: Final = 0.5
"""Share of the facts that the base must say in its chat form for that form to count as the deployed one."""


@dataclass(frozen=True)
class Knowledge:
    """All models' readings of the facts.

    Attributes:
        known: facts that count.
        guessed: facts that were left out because the reference says them.
        models: role -> condition -> readings.
        guessable: whether answers may be guessed from their questions, as far as is known.
        contradicted: whether they are taken as such although the concept says that they cannot be: the reference tells
            them apart.
        unseen: attacks that have no null of their own and count only against the reference.
    """

    facts: Facts
    known: Bool[np.ndarray, " n_facts"]
    guessed: int
    models: Mapping[str, Mapping[str, FactReadings]]
    guessable: bool
    seed: int
    unseen: frozenset[str] = frozenset()
    contradicted: bool = False

    @property
    def n(self) -> int:
        return int(self.known.sum())

    @property
    def has_reference(self) -> bool:
        return REFERENCE in self.models

    @property
    def is_relative(self) -> bool:
        """Whether the reference is the zero of the residual: answers may be guessed, and there is one.

        Where they cannot be guessed zero is known, and the reference would only add the noise of its own readings.
        """
        return self.guessable and self.has_reference

    @cached_property
    def deployed(self) -> str:
        """The form in which the models are used: the chat form if the base says enough in it."""
        for name, readings in self.models[BASE].items():
            if readings.condition.attack == CHAT and np.nan_to_num(readings.says).mean() >= DEPLOYED:
                return name
        return str(AS_IS)

    @cached_property
    def forms(self) -> list[str]:
        """The deployed form first, then the others."""
        others = [name for name, readings in self.models[BASE].items() if readings.condition.attack in (None, CHAT)]
        return sorted(others, key=lambda name: name != self.deployed)

    def says(self, role: str, condition: str) -> Float[np.ndarray, " n_known"]:
        """Whether each known fact is said; NaN if it was not asked, or the model was not read under the condition."""
        readings = self.models.get(role, {}).get(condition)
        return np.full(self.n, np.nan) if readings is None else readings.says[self.known]

    @cached_property
    def guess(self) -> float:
        """Share of the known facts that a model without the knowledge says: the reference's, else by chance in types.

        A fact without a type has no chance of being guessed.
        """
        if self.has_reference:
            says = self.says(REFERENCE, self.deployed)
            asked = says[~np.isnan(says)]
            return float(asked.mean()) if len(asked) else 0.0
        counts = {type_: self.facts.types.count(type_) for type_ in self.facts.types if type_ is not None}
        chances = [
            0.0 if type_ is None else 1 / counts[type_] for type_ in np.array(self.facts.types, object)[self.known]
        ]
        return float(np.mean(chances)) if chances else 0.0

    # ---- the exchange test

    @cached_property
    def cells(self) -> Int[np.ndarray, " n_facts"]:
        """Cell of each fact: its type, and the fold that each attack put it in."""
        folds = [readings.fold for readings in self.models[UNLEARNED].values() if (readings.fold >= 0).any()]
        keys = list(zip(self.facts.types, *(fold.tolist() for fold in folds), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    @cached_property
    def draws(self) -> Draws:
        """Exchanges of the known facts' answers."""
        alone = self.cells.max(initial=0) + 1 + np.arange(len(self.cells))
        return Draws.of(np.where(self.known, self.cells, alone), self.seed)

    @cached_property
    def n_exchanged(self) -> int:
        """Known facts whose answer can be exchanged with another's."""
        cells = self.cells[self.known & np.array([type_ is not None for type_ in self.facts.types])]
        _, counts = np.unique(cells, return_counts=True)
        return int(counts[counts > 1].sum())

    @cached_property
    def tests(self) -> dict[str, Exchange]:
        """Condition -> the exchange test of the unlearned model; only where answers can be exchanged."""
        tests = {}
        for name, readings in self.models[UNLEARNED].items():
            blocks = self.blocks(readings, blind=True)
            if blocks and readings.condition.attack not in self.unseen:
                tests[name] = exchange(blocks, self.draws)
        return tests

    @cached_property
    def omnibus(self) -> Omnibus | None:
        """The exchange test over all conditions and places."""
        return omnibus(self.tests, self.draws, self.relearned) if self.tests else None

    @cached_property
    def relearned(self) -> str | None:
        """The condition that was trained longest on half of the facts, among those that can be tested; of several
        that were trained as long, the first."""
        folded = {
            name: readings.condition.steps or 0
            for name, readings in self.models[UNLEARNED].items()
            if readings.condition.attack == RELEARNED and (readings.fold >= 0).any() and name in self.tests
        }
        return max(folded, key=lambda name: folded[name], default=None)

    @cached_property
    def without_null(self) -> list[str]:
        """The conditions that only a reference could give a zero, of those in which facts can be told apart."""
        models = self.models[UNLEARNED]
        return [name for name, each in models.items() if each.condition.attack in self.unseen and self.blocks(each)]

    @property
    def reference_knows(self) -> bool:
        """Whether the reference as it is prefers the true answers, by the exchange test at its output."""
        readings = self.models.get(REFERENCE, {}).get(str(AS_IS))
        blocks = [Block(each.facts, each.scores[:1]) for each in self.blocks(readings)] if readings is not None else []
        if not blocks:
            return False
        test = exchange(blocks, self.draws)
        return self.draws.p_value(int((test.null_z[0] >= test.z[0] - ROUNDING).sum())) < SIGNIFICANT.value

    def blocks(self, readings: FactReadings, blind: bool = False) -> list[Block]:
        """The blocks of the known facts; those with at least two.

        Args:
            blind: only the places whose readout never saw the facts; they come first.
        """
        places = [number for number, place in enumerate(readings.places) if place.is_blind or not blind]
        blocks = []
        for block in readings.blocks:
            rows = np.flatnonzero(self.known[block.facts])
            if len(rows) > 1:
                blocks.append(Block(block.facts[rows], block.scores[places][:, rows][:, :, rows]))
        return blocks

    # ---- ranks

    def excess(self, role: str, condition: str, place: int = 0) -> Float[np.ndarray, " n_facts"]:
        """1 - 2 rank of each known fact's true answer: 1 if it is first among its type's, mean 0 without knowledge.

        NaN for facts that were not read.
        """
        values = np.full(len(self.known), np.nan)
        readings = self.models.get(role, {}).get(condition)
        if readings is not None and place < len(readings.places):
            for block in self.blocks(readings):
                values[block.facts] = 1 - 2 * np.diagonal(ranks(block.scores[place]))
        return values

    def null_spread(self, condition: str) -> float | None:
        """Standard deviation of the mean excess under exchanged answers; ``None`` if nothing can be exchanged."""
        blocks = [
            Block(block.facts, 1 - 2 * ranks(block.scores[:1]))
            for block in self.blocks(self.models[UNLEARNED][condition])
        ]
        return float(exchange(blocks, self.draws, centre=False).spread[0]) if blocks else None

    def standard_scores(self, role: str, condition: str, place: int = 0) -> Float[np.ndarray, " n_facts"]:
        """Centred score of each known fact's true answer at a place, in standard deviations of its type's scores.

        Any training makes a model surer of what it guesses, so nats of two models do not compare; NaN if it was not
        read.
        """
        values = np.full(len(self.known), np.nan)
        readings = self.models.get(role, {}).get(condition)
        for block in self.blocks(readings) if readings is not None else ():
            scores = centred(block.scores[place])
            spread = np.sqrt((scores**2).mean())
            values[block.facts] = np.diagonal(scores) / spread if spread > 0 else 0.0
        return values


def knowledge_of(
    by_condition: Mapping[Condition, Mapping[str, Readings]],
    others: Mapping[str, Mapping[Condition, Readings]],
    guessable: bool,
    seed: int,
    unseen: frozenset[str] = frozenset(),
) -> Knowledge | None:
    """The knowledge of all models; ``None`` if the base was not asked anything whose answer can be checked.

    Args:
        by_condition: condition -> role -> readings. A retained model serves as the reference if there is no other.
        others: ``"reference"`` and ``"twin"`` -> condition -> readings.
        guessable, unseen: see ``Knowledge``.
    """
    plain = by_condition.get(AS_IS, {})
    if "base" not in plain or "unlearned" not in plain:
        return None
    facts = facts_in(plain["base"])
    if not facts.ids:
        return None
    roles: dict[str, Mapping[Condition, Readings]] = {
        role: {condition: each[name] for condition, each in by_condition.items() if name in each}
        for role, name in ((BASE, BASE), (UNLEARNED, UNLEARNED), (REFERENCE, "retained"))
    }
    roles.update({role: readings for role, readings in others.items() if readings})
    models = {name: fact_readings(facts, each) for name, each in roles.items() if each}
    known = _said_in_any_form(models[BASE], len(facts.ids))
    return without_guesses(Knowledge(facts, known, 0, models, guessable, seed, unseen))


def without_guesses(knowledge: Knowledge) -> Knowledge:
    """The same without the facts that the reference says too, where answers may be guessed.

    That they cannot be guessed is what a concept's file says; a reference that tells the answers apart contradicts it.
    Else the few facts that a reference says are chance, and count.
    """
    if not knowledge.guessable and not knowledge.reference_knows:
        return knowledge
    guessed = _said_in_any_form(knowledge.models.get(REFERENCE, {}), len(knowledge.known))
    return replace(
        knowledge,
        known=knowledge.known & ~guessed,
        guessed=int((knowledge.known & guessed).sum()),
        guessable=True,
        contradicted=not knowledge.guessable,
    )


def _said_in_any_form(readings: Mapping[str, FactReadings], n: int) -> Bool[np.ndarray, " n"]:
    """Whether each fact is said by a model as it is, plainly or in its chat form."""
    said = np.zeros(n, dtype=bool)
    for each in readings.values():
        if each.condition.attack in (None, CHAT):
            said |= each.says == 1
    return said
