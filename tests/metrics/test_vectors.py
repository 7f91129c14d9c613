"""The concept-vector metrics order a removed, a hidden and a present case, with unchanged controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from audit.metrics.contract import Evidence
from audit.metrics.vectors import (
    related_tokens_kept,
    target_token_rank,
    vector_cosine,
    vector_jaccard,
    vector_l2,
)
from audit.result import Measured
from audit.vectors.trace import TracedVector, TracedVectors
from concepts.neuron import Neuron
from tests.metrics.planted import evidence_of

METRICS = {
    "cosine": vector_cosine,
    "l2": vector_l2,
    "jaccard": vector_jaccard,
    "kept": related_tokens_kept,
    "rank": target_token_rank,
}
D_MODEL, D_VOCAB, TOP = 16, 900, 200
TOKENS = np.arange(10)


def head() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(D_VOCAB, D_MODEL)).astype(np.float32)


def traced(before: np.ndarray, after: np.ndarray) -> TracedVector:
    logits = [head() @ vector for vector in (before, after)]
    orders = [np.argsort(-scores, kind="stable") for scores in logits]
    ranks = [np.argsort(order)[TOKENS] for order in orders]
    return TracedVector(Neuron(0, 0), before, after, orders[0][:TOP], orders[1][:TOP], ranks[0], ranks[1])


def writes_concept(seed: int) -> np.ndarray:
    """A vector whose top tokens are the concept's: the sum of their rows in the head, plus noise."""
    noise = np.random.default_rng(seed).normal(size=D_MODEL)
    return (head()[TOKENS].sum(axis=0) + 0.3 * noise).astype(np.float32)


def evidence(change: Any, n: int = 6) -> Evidence:
    vectors = tuple(traced(writes_concept(i), change(writes_concept(i))) for i in range(n))
    unchanged = [np.random.default_rng(100 + i).normal(size=D_MODEL).astype(np.float32) for i in range(2 * n)]
    controls = tuple(traced(vector, vector) for vector in unchanged)
    writes = (("a", "b"),) * n
    pairs = TracedVectors(writes, vectors, controls, 2, TOKENS, ("w",) * 10, "float32")
    return evidence_of({}, vectors=pairs)


def present(vector: np.ndarray) -> np.ndarray:
    return vector


def hidden(vector: np.ndarray) -> np.ndarray:
    """The vector after fine-tuning: a change of about 1e-4."""
    return (vector + 1e-4 * np.random.default_rng(7).normal(size=D_MODEL)).astype(np.float32)


def removed(vector: np.ndarray) -> np.ndarray:
    """Noise in place of the concept's direction."""
    return (np.random.default_rng(8).normal(size=D_MODEL) * np.linalg.norm(vector) / 4).astype(np.float32)


def zeroed(vector: np.ndarray) -> np.ndarray:
    return np.zeros_like(vector)


def measured(name: str, change: Any) -> Measured:
    return METRICS[name].measure(evidence(change))


@pytest.mark.parametrize("name", METRICS)
def test_planted_cases_are_ordered(name: str) -> None:
    values = [measured(name, change).value for change in (present, hidden, removed)]
    sign = 1 if measured(name, present).direction == "knowledge" else -1
    assert None not in values
    present_score, hidden_score, removed_score = (sign * (value or 0.0) for value in values)
    assert present_score >= hidden_score > removed_score


@pytest.mark.parametrize("name", METRICS)
def test_an_unchanged_vector_scores_as_the_base_against_itself(name: str) -> None:
    measurement = measured(name, present)
    assert measurement.value == pytest.approx(measurement.base)
    assert measurement.control is not None


@pytest.mark.parametrize("name", ["cosine", "jaccard", "kept"])
def test_a_zeroed_vector_keeps_nothing(name: str) -> None:
    assert measured(name, zeroed).value == 0.0


def test_zeroing_moves_a_vector_by_its_own_norm() -> None:
    assert measured("l2", zeroed).value == pytest.approx(1.0)


def test_the_rank_under_a_zeroed_vector_is_not_measured() -> None:
    assert measured("rank", zeroed).not_measured == "it is undefined for every concept vector"


def test_changed_vectors_are_outside_the_value_of_unchanged_controls() -> None:
    measurement = measured("cosine", removed)
    assert measurement.control is not None
    assert measurement.control.value == 1.0
    assert measurement.interval is not None
    assert measurement.interval[1] < 0.95


def test_one_vector_has_no_interval() -> None:
    assert vector_cosine.measure(evidence(removed, n=1)).interval is None


@pytest.mark.parametrize(("shared", "expected"), [(100, 0.333), (133, 0.498), (180, 0.818), (195, 0.951), (200, 1.0)])
def test_jaccard_follows_its_golden_values(shared: int, expected: float) -> None:
    before, after = np.arange(200), np.arange(200) + 200 - shared
    vector = TracedVector(Neuron(0, 0), np.ones(2), np.ones(2), before, after, TOKENS, TOKENS)
    assert vector_jaccard.score(vector) == pytest.approx(expected, abs=5e-4)
