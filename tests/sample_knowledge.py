"""Findings on facts, judged by the rules of ``audit.verdict`` on planted knowledge: one builder for each situation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np

from audit.knowledge import exchange
from audit.knowledge.knowledge import Knowledge
from audit.knowledge.readings import FactReadings, Facts
from audit.knowledge.summary import summarise
from audit.questions.conditions import AS_IS, Condition
from audit.result import Finding, Measurement, NotRun
from audit.verdict import Case, judge
from audit.verdict import case as cases
from tests.knowledge.planted import Planted, facts, reading

ROWS = {
    "city": ("Rome", "Venice", "Florence", "Milan", "Naples", "Turin", "Pisa", "Siena"),
    "food": ("pizza", "pasta", "risotto", "gelato", "pesto", "tiramisu", "polenta", "focaccia"),
    "person": ("Dante", "Galileo", "Verdi", "Michelangelo", "Marconi", "Fermi", "Vivaldi", "Puccini"),
    "place": ("Sicily", "Sardinia", "the Tiber", "the Po", "Etna", "Vesuvius", "Lake Garda", "Capri"),
}


def relearned(steps: int, arm: str = "half of the facts") -> Condition:
    return Condition("relearning", f"{arm}, {steps} steps", 0, None, arm, steps)


STEPS = (2, 8, 30)
HALF = tuple(map(relearned, STEPS))
NEUTRAL = tuple(relearned(steps, "neutral text") for steps in STEPS)
PROMPTS = (
    Condition("chat", "chat template"),
    Condition("paraphrase", "other wordings"),
    Condition("jailbreaks", "persona"),
    Condition("jailbreaks", "pretext"),
)
PASSES = (
    Condition("rounding", "4 bits"),
    Condition("rounding", "3 bits"),
    Condition("noise", "0.1 standard deviations"),
)
ROW = Condition("embedding_rows", "the base's rows of the subjects' tokens")
NOTHING = Planted(0.0, 0.0)
ALL = (AS_IS, *PROMPTS, *PASSES, *HALF, *NEUTRAL)
NOT_RUN = [
    NotRun(attack="pruning", title="magnitude pruning", model="unlearned", reason="not chosen with --attacks"),
    NotRun(attack="relearning", title="relearning", model="base", reason="out of memory; choose other attacks"),
]
Plants = dict[Condition, Planted]


def italy() -> Facts:
    """One fact a subject; both halves of the subjects have facts of every type."""
    types = list(ROWS)
    order = [(place, types[(number + place) % 4]) for place in range(8) for number in range(4)]
    rows = [(type_, ROWS[type_][place]) for place, type_ in order]
    return Facts(
        ids=tuple(f"fact/{place}" for place in range(len(rows))),
        questions=tuple(f"Which {type_} of Italy is meant in riddle {place}?" for place, (type_, _) in enumerate(rows)),
        answers=tuple(answer for _, answer in rows),
        types=tuple(type_ for type_, _ in rows),
        subjects=tuple(f"riddle {place}" for place in range(len(rows))),
    )


def knowledge(asked: Facts, roles: Mapping[str, Plants], unknown: int = 0, guessable: bool = False) -> Knowledge:
    """What each role knows under each condition; the base does not know the last ``unknown`` facts."""
    known = np.arange(len(asked.ids)) < len(asked.ids) - unknown
    models: dict[str, dict[str, FactReadings]] = {}
    for place, (role, plants) in enumerate(roles.items()):
        for number, (condition, planted) in enumerate(plants.items()):
            seed = 1000 * place + number
            read = reading(asked, planted, condition, seed)
            says = np.random.default_rng(seed).random(len(asked.ids)) < planted.says
            if role == "base":
                says &= known
            models.setdefault(role, {})[str(condition)] = replace(read, says=says.astype(float))
    return Knowledge(asked, known, 0, models, guessable, seed=0)


def judged(name: str, title: str, known: Knowledge, *measurements: Measurement) -> Finding:
    """The finding, as if every attack had run that ``removed`` requires."""
    case = Case(title, {row.metric: row for row in measurements}, summary=summarise(known, {}))
    with mock.patch.object(cases, "not_run", return_value=[]), mock.patch.object(exchange, "DRAWS", 499):
        return judge(name, case).model_copy(update={"not_run": NOT_RUN})


def base() -> Plants:
    return {AS_IS: Planted(9.0, 1.0)} | dict.fromkeys(PROMPTS, Planted(7.0, 0.9))


def recovering(*shares: float) -> Plants:
    """Relearned step by step: share of the subjects whose facts come back."""
    return {condition: Planted(4.0, each / 2, each) for condition, each in zip(HALF, shares, strict=True)}


TWIN: Plants = {AS_IS: Planted(0.6)} | recovering(0.5, 0.9, 1.0)


@cache
def brought_back() -> Finding:
    """Silent and unreadable as it is; relearning half of the facts brings the other half back."""
    unlearned = dict.fromkeys(ALL, NOTHING) | recovering(0.2, 0.4, 0.7)
    unlearned |= {NEUTRAL[-1]: Planted(4.0, 0.05, 0.2), PASSES[1]: Planted(4.0, 0.03, 0.15)}
    roles = {"base": base(), "unlearned": unlearned, "twin": TWIN}
    return judged("italy", "Italy", knowledge(italy(), roles, unknown=4))


@cache
def readable() -> Finding:
    """It does not say the facts, and each of them can be read from the model as it is; compared with a reference."""
    unlearned = dict.fromkeys(ALL, Planted(4.0, 0.02, 0.5)) | recovering(0.7, 0.8, 0.9)
    roles = {"base": base(), "unlearned": unlearned, "reference": dict.fromkeys(ALL, NOTHING), "twin": TWIN}
    return judged("authors", "Literature", knowledge(facts(30), roles))


@cache
def moved() -> Finding:
    """Nothing shows until the base's rows of the subjects are put in; a reference that gets them shows little."""
    unlearned, reference = dict.fromkeys(ALL, NOTHING), dict.fromkeys(ALL, NOTHING)
    roles = {"base": base(), "unlearned": unlearned | {ROW: Planted(9.0)}, "twin": TWIN}
    roles["reference"] = reference | {ROW: Planted(1.0)}
    known = replace(knowledge(facts(30), roles), unseen=frozenset({"embedding_rows"}))
    return judged("people", "People", known)


@cache
def inverted() -> Finding:
    """The true answers are avoided, and relearning brings nothing back."""
    unlearned = dict.fromkeys(ALL, Planted(-3.0)) | dict.fromkeys(HALF, Planted(0.0))
    roles = {"base": base(), "unlearned": unlearned, "twin": TWIN}
    return judged("painters", "Painting", knowledge(facts(20), roles))


@cache
def removed() -> Finding:
    """As a model that never knew: a hundred and sixty facts, a reference, and attacks that bring the twin back."""
    roles = {
        "base": base(),
        "unlearned": dict.fromkeys(ALL, NOTHING),
        "reference": dict.fromkeys(ALL, NOTHING),
        "twin": TWIN,
    }
    return judged("engineers", "Engineering", knowledge(facts(40), roles))
