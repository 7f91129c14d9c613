"""What the exchange test of all conditions reads: the primary condition, and readouts that saw the facts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from audit.knowledge.exchange import Block, Draws, exchange, omnibus
from audit.knowledge.knowledge import Knowledge, without_guesses
from audit.knowledge.readings import Place
from audit.knowledge.residual import left_of
from audit.knowledge.summary import summarise
from audit.questions.conditions import AS_IS, Condition
from tests.knowledge.planted import IGNORES, RELEARNED, Planted, facts, knowledge

MANY = tuple(Condition("noise", f"dose {number}") for number in range(40))


def p_value(seed: int, relearned: Planted) -> float:
    conditions = dict.fromkeys((AS_IS, *MANY), IGNORES) | {RELEARNED: relearned}
    test = knowledge(conditions, seed=seed).omnibus
    assert test is not None
    return test.p_value


def test_many_conditions_do_not_hide_what_relearning_shows() -> None:
    known = knowledge(dict.fromkeys((AS_IS, *MANY), IGNORES) | {RELEARNED: Planted(0.5)}, seed=1)
    alone = omnibus(known.tests, known.draws)
    assert known.omnibus is not None
    assert known.omnibus.p_value < alone.p_value


def test_half_of_the_level_for_relearning_keeps_the_level() -> None:
    p_values = np.array([p_value(seed, IGNORES) for seed in range(60)])
    assert (p_values < 0.05).mean() <= 0.13  # two standard errors above 0.05
    assert p_values.mean() > 0.35


def test_the_opposite_after_relearning_is_not_counted_as_what_it_brings_back() -> None:
    known = knowledge({AS_IS: IGNORES, RELEARNED: Planted(-0.5)}, seed=1)
    assert known.omnibus is not None
    both = omnibus(known.tests, known.draws)
    assert known.omnibus.corrected[str(RELEARNED)][0] >= both.corrected[str(RELEARNED)][0]


def through_the_base(known: Knowledge) -> Knowledge:
    """The unlearned model, in which the true answers stand out through the base's head alone."""
    readings = known.models["unlearned"][str(AS_IS)]
    seen = [
        Block(block.facts, np.concatenate([block.scores, block.scores + 9 * np.eye(len(block.facts))]))
        for block in readings.blocks
    ]
    changed = replace(readings, places=(*readings.places, Place(1, "base")), blocks=tuple(seen))
    return replace(known, models={**known.models, "unlearned": {str(AS_IS): changed}})


def test_a_readout_that_saw_the_facts_decides_nothing() -> None:
    """The base's head was trained on the answers, so a model that never knew seems to know through it."""
    known = through_the_base(knowledge({AS_IS: IGNORES}, seed=2))
    assert exchange(known.models["unlearned"][str(AS_IS)].blocks, Draws.of(known.cells, 0)).z[1] > 5
    assert known.omnibus is not None
    assert known.omnibus.p_value > 0.01
    left = left_of(known)
    assert left is not None
    assert left.most.place == Place()


def test_facts_the_base_does_not_say_do_not_count() -> None:
    everything = facts()
    known = np.arange(len(everything.ids)) % 2 == 0
    half = knowledge(Planted(4.0), known=known)
    assert half.n == 40
    assert not np.isfinite(half.excess("unlearned", str(AS_IS))[~known]).any()


def with_reference(reference: Planted, guessable: bool, seed: int = 0) -> Knowledge:
    plants = dict.fromkeys((AS_IS, RELEARNED), reference)
    return knowledge(Planted(4.0), reference=plants, guessable=guessable, seed=seed)


def test_facts_that_a_reference_says_by_chance_count_where_answers_cannot_be_guessed() -> None:
    """Leaving them out would take facts from the test and add the noise of the reference."""
    alone, beside = knowledge(Planted(4.0)), without_guesses(with_reference(Planted(0.0, 0.1), guessable=False))
    assert (beside.n, beside.guessed, beside.contradicted) == (alone.n, 0, False)
    assert alone.omnibus is not None
    assert beside.omnibus is not None
    assert beside.omnibus.p_value == alone.omnibus.p_value


def test_facts_that_a_reference_says_do_not_count_where_answers_may_be_guessed() -> None:
    known = without_guesses(with_reference(Planted(0.0, 0.1), guessable=True))
    assert (known.n, known.guessed, known.contradicted) == (72, 8, False)


def test_a_reference_that_tells_answers_apart_shows_that_they_can_be_guessed() -> None:
    known = without_guesses(with_reference(Planted(2.0, 0.1), guessable=False))
    assert known.contradicted
    assert known.is_relative
    assert known.guessed == 8
    assert summarise(known, {}).known.contradicted


def test_a_reference_that_avoids_the_answers_is_no_sign_of_guessing() -> None:
    assert not without_guesses(with_reference(Planted(-2.0), guessable=False)).guessable


def test_a_reference_without_the_knowledge_hardly_ever_tells_answers_apart() -> None:
    found = [without_guesses(with_reference(IGNORES, guessable=False, seed=seed)).contradicted for seed in range(100)]
    assert sum(found) <= 5  # at a level of 0.01
