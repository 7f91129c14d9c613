"""Synthetic knowledge of facts: models that know them, hide them, avoid them or never knew them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from audit.knowledge.exchange import Block
from audit.knowledge.knowledge import Knowledge
from audit.knowledge.readings import FactReadings, Facts, Place
from audit.questions.conditions import AS_IS, Condition

TYPES = ("city", "job", "pet", "food")
SUBJECTS = 20
RELEARNED = Condition("relearning", "half of the facts, 8 steps")
ROUNDED = Condition("rounding", "4 bits")
CHAT = Condition("chat", "chat template")
RAN = tuple(Condition(name, "a dose") for name in ("noise", "jailbreaks", "in_context", "paraphrase", "embedding_rows"))
"""Further attacks, so that a test does not depend on which of them the verdict ``removed`` requires."""


@dataclass(frozen=True)
class Planted:
    """One model under one condition.

    Attributes:
        nats: how far the true answers are raised above others of their type; the noise has a deviation of 1.
        says: share of the facts that are said.
        share: share of the subjects whose facts are raised.
        popular: deviation of the answers' popularity.
    """

    nats: float = 0.0
    says: float = 0.0
    share: float = 1.0
    popular: float = 2.0


KNOWS, HIDES, IGNORES = Planted(9.0, 1.0), Planted(4.0), Planted()


def facts(subjects: int = SUBJECTS, types: tuple[str, ...] = TYPES) -> Facts:
    """Each subject has one fact of each type."""
    rows = [(type_, f"person {number}") for type_ in types for number in range(subjects)]
    return Facts(
        ids=tuple(f"fact/{place}" for place in range(len(rows))),
        questions=tuple(f"What is the {type_} of {subject}?" for type_, subject in rows),
        answers=tuple(f"{type_} {place}" for place, (type_, _) in enumerate(rows)),
        types=tuple(type_ for type_, _ in rows),
        subjects=tuple(subject for _, subject in rows),
    )


def reading(facts: Facts, planted: Planted, condition: Condition, seed: int) -> FactReadings:
    """Relearning conditions are read in two folds, by subject."""
    rng = np.random.default_rng(seed)
    n = len(facts.ids)
    subjects = list(dict.fromkeys(facts.subjects))
    taught = set(subjects[: round(planted.share * len(subjects))])
    half = np.array([subjects.index(subject) % 2 for subject in facts.subjects])
    folds = (0, 1) if condition.attack == "relearning" else (-1,)
    blocks = []
    for part in folds:
        for type_ in dict.fromkeys(facts.types):
            rows = np.array([i for i in range(n) if facts.types[i] == type_ and (part < 0 or half[i] == part)])
            m = len(rows)
            known = np.array([facts.subjects[row] in taught for row in rows])
            scores = rng.normal(0, 1, (m, m)) + rng.normal(0, 3, (m, 1)) + rng.normal(0, planted.popular, (1, m))
            blocks.append(Block(rows, (scores + np.diag(planted.nats * known))[None]))
    said = (np.arange(n) % 100) < planted.says * 100 if n >= 100 else np.arange(n) < planted.says * n
    fold = half if condition.attack == "relearning" else np.full(n, -1)
    return FactReadings(condition, (Place(),), tuple(blocks), said.astype(float), fold)


def knowledge(
    unlearned: Mapping[Condition, Planted] | Planted,
    *,
    facts: Facts = facts(),
    reference: Mapping[Condition, Planted] | None = None,
    twin: Planted | None = Planted(6.0),
    base: Mapping[Condition, Planted] | None = None,
    guessable: bool = False,
    seed: int = 0,
    **changes: Any,
) -> Knowledge:
    """The knowledge of a base that says everything, and of an unlearned model; every attack ran.

    Args:
        unlearned: condition -> what it knows; or what it knows under every condition.
        twin: what relearning brings back from the refusal twin.
    """
    if isinstance(unlearned, Planted):
        unlearned = dict.fromkeys((AS_IS, RELEARNED, ROUNDED, *RAN), unlearned)
    roles: dict[str, Mapping[Condition, Planted]] = {"base": base or {AS_IS: KNOWS}, "unlearned": unlearned}
    if reference is not None:
        roles["reference"] = reference
    if twin is not None:
        roles["twin"] = {AS_IS: Planted(), RELEARNED: twin}
    models = {
        role: {
            str(condition): reading(facts, planted, condition, 1000 * seed + 100 * place + number)
            for number, (condition, planted) in enumerate(conditions.items())
        }
        for place, (role, conditions) in enumerate(roles.items())
    }
    known = np.ones(len(facts.ids), dtype=bool)
    return replace(Knowledge(facts, known, 0, models, guessable, seed), **changes)
