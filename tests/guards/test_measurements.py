"""Measurements of a guard, from numbers made here."""

from __future__ import annotations

import numpy as np
import pytest

from audit.guards.effects import NEUTRAL, GuardEffect, SkillRole
from audit.guards.measurements import GOALS, guard_effect, guard_perplexity
from audit.models.scoring import AnswerScores
from tests.sample_guard import share


def effect(role: SkillRole, before: list[float], after: list[float]) -> GuardEffect:
    exact = np.zeros(len(before), dtype=bool)
    name = NEUTRAL if role == "text" else role
    scores = [AnswerScores(np.array(logprobs), exact) for logprobs in (before, after)]
    return GuardEffect(name, role, 9, *scores, tokens=100)


OWN = effect("forget", [-1.0, -2.0], [-3.0, -5.0])
OTHER = effect("retain", [-1.0, -1.0], [-1.5, -0.5])
TEXT = effect("text", [-1.0, -3.0], [-1.1, -3.2])


@pytest.mark.parametrize(
    ("role", "inside", "reached"),
    [
        ("forget", 97, True),
        ("forget", 96, False),
        ("retain", 1, True),
        ("retain", 2, False),
        ("left out", 5, True),
        ("left out", 6, False),
        ("text", 50, None),
    ],
)
def test_a_goal_is_reached_exactly_at_its_share(role: str, inside: int, reached: bool | None) -> None:
    row = share("vote", "1", "a", role, inside, n=100).as_row()
    assert row["reached"] is reached
    assert (row["goal"] is None) == (role not in GOALS)
    assert row["low"] < row["inside"] < row["high"]  # type: ignore[operator]


def test_the_change_of_the_skills_answers_has_that_of_all_others_as_its_control() -> None:
    measurement = guard_effect([OWN, OTHER, TEXT], seed=0)
    assert measurement.value == -2.5
    assert measurement.control is not None
    assert (measurement.control.name, measurement.control.value) == ("answers of the other skills", 0.0)
    assert [row["role"] for row in measurement.items] == ["forget", "retain", "text"]
    assert measurement.items[2]["exact_before"] is None  # text has no right answers
    unanswered = effect("retain", [], [])
    control = guard_effect([OWN, unanswered, TEXT], seed=0).control
    assert control is not None
    assert control.name == NEUTRAL
    assert guard_effect([OWN, unanswered, effect("text", [], [])], seed=0).control is None


def test_a_perplexity_has_the_interval_of_its_change() -> None:
    """Stretches differ among themselves far more than the guard changes them: two separate intervals would overlap."""
    perplexity = guard_perplexity([OWN, OTHER, TEXT], seed=0)
    assert perplexity.base == pytest.approx(np.exp(2.0))
    assert perplexity.value == pytest.approx(np.exp(2.15))
    assert perplexity.interval is not None
    assert perplexity.base < perplexity.interval[0] <= perplexity.value <= perplexity.interval[1]
    assert perplexity.interval[1] == pytest.approx(np.exp(2.2))
    assert perplexity.details["ratio"] == pytest.approx(np.exp(0.15))


@pytest.mark.parametrize(
    ("text", "reason"), [(effect("text", [], []), "no stretch"), (effect("text", [-1.0], [-701.0]), "exp overflows")]
)
def test_a_perplexity_that_is_not_measured_has_the_reason(text: GuardEffect, reason: str) -> None:
    assert reason in str(guard_perplexity([OWN, text], seed=0).not_measured)
