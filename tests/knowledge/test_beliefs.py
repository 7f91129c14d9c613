"""The reference's beliefs explain guesses that it shares, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audit.knowledge.beliefs import STEEPEST, Beliefs, belief_p_value
from audit.knowledge.exchange import Block, centred
from audit.knowledge.knowledge import Knowledge
from audit.knowledge.readings import FactReadings, Place
from audit.questions.conditions import AS_IS, Condition
from tests.knowledge.planted import IGNORES, facts, knowledge

ROUNDED = Condition("rounding", "4 bits")
FACTS = facts(10, ("city", "job", "pet"))
N = len(FACTS.ids)


def guessable_world(seed: int, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Scores from which answers can be guessed, and the truth drawn from them: which answer each fact has."""
    rng = np.random.default_rng(seed)
    guesses = strength * rng.normal(size=(N, N))
    cells = [np.array([i for i in range(N) if FACTS.types[i] == type_]) for type_ in dict.fromkeys(FACTS.types)]
    beliefs = Beliefs(guesses, tuple(cells), np.array([list(dict.fromkeys(FACTS.types)).index(t) for t in FACTS.types]))
    assigned = beliefs._sampled(1.0, seed)[0]
    return guesses[:, assigned], assigned  # column i is the answer that fact i truly has


def reading(scores: np.ndarray, condition: Condition = AS_IS) -> FactReadings:
    blocks = []
    for type_ in dict.fromkeys(FACTS.types):
        rows = np.array([i for i in range(N) if FACTS.types[i] == type_])
        blocks.append(Block(rows, scores[np.ix_(rows, rows)][None]))
    return FactReadings(condition, (Place(),), tuple(blocks), np.zeros(N), np.full(N, -1))


def models(reference: np.ndarray, unlearned: np.ndarray, seed: int, noise: float = 0.0) -> Knowledge:
    rng = np.random.default_rng(seed + 1000)
    plain = reading(unlearned + noise * rng.normal(size=unlearned.shape))
    rounded = reading(unlearned + 0.3 * rng.normal(size=unlearned.shape), ROUNDED)
    known = knowledge({AS_IS: IGNORES}, facts=FACTS, guessable=True, seed=seed)
    return replace(
        known,
        models={
            **known.models,
            "unlearned": {str(AS_IS): plain, str(ROUNDED): rounded},
            "reference": {str(AS_IS): reading(reference)},
        },
    )


def test_a_model_that_guesses_as_the_reference_does_has_a_uniform_p_value() -> None:
    p_values = []
    for seed in range(16):
        scores, _ = guessable_world(seed)
        known = models(scores, scores, seed)
        p_values.append(belief_p_value(known))
        assert known.omnibus is not None
    found = np.array(p_values, dtype=float)
    assert (found < 0.05).mean() <= 0.13
    assert 0.25 < found.mean() < 0.8


def test_the_plain_exchange_would_call_such_guesses_knowledge() -> None:
    scores, _ = guessable_world(1)
    known = models(scores, scores, 1)
    assert known.omnibus is not None
    assert known.omnibus.p_value < 0.01
    explained = belief_p_value(known)
    assert explained is not None
    assert explained > 0.05


def test_what_the_reference_does_not_believe_stands_out() -> None:
    scores, _ = guessable_world(2)
    p_value = belief_p_value(models(scores, scores + 4 * np.eye(N), 2))
    assert p_value is not None
    assert p_value < 0.01


@pytest.mark.parametrize("strength", [0.5, 1.5, 3.0])
def test_the_truth_scores_as_expected_at_the_fitted_beta(strength: float) -> None:
    scores, _ = guessable_world(3, strength)
    blocks = list(reading(scores).blocks)
    beliefs = Beliefs.of(blocks, np.array([list(dict.fromkeys(FACTS.types)).index(t) for t in FACTS.types]))
    assert beliefs is not None
    beta = beliefs.beta(0)
    truth = sum(float(np.diagonal(centred(block.scores[0])).sum()) for block in blocks)
    assert 0 < beta < STEEPEST
    assert beliefs._expected(beta, 0) == pytest.approx(truth, rel=0.05)


def test_a_reference_that_believes_the_opposite_has_no_beta() -> None:
    scores = -3 * np.eye(N)
    beliefs = Beliefs.of(list(reading(scores).blocks), np.repeat([0, 1, 2], 10))
    assert beliefs is not None
    assert beliefs.beta(0) == 0.0


def test_an_assignment_is_one_of_each_answer_of_a_cell() -> None:
    scores, _ = guessable_world(4)
    beliefs = Beliefs.of(list(reading(scores).blocks), np.repeat([0, 1, 2], 10))
    assert beliefs is not None
    assigned = beliefs._sampled(1.0, 0)
    for cell in beliefs.cells:
        assert (np.sort(assigned[:, cell], axis=1) == cell).all()
        assert (beliefs._as_draws(assigned).exchanged(cell) == assigned[:, cell] - cell[0]).all()


def test_without_a_reference_there_are_no_beliefs() -> None:
    assert belief_p_value(knowledge({AS_IS: IGNORES})) is None
