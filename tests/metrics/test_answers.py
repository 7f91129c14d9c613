"""Log-probability, exact memorisation and extraction strength of answers; golden values of the references."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from audit.metrics.answers import (
    answer_accuracy,
    answer_log_probability,
    exact_memorisation,
    extraction_strength,
    unrelated_log_probability,
)
from audit.metrics.answers.extraction_strength import extraction_strength as strength
from audit.metrics.contract import Evidence
from audit.questions.items import Item
from audit.questions.readings import Readings
from tests.metrics.planted import N, evidence, evidence_of, item, readings

METRICS = [answer_log_probability, exact_memorisation, extraction_strength]


@pytest.mark.parametrize("metric", METRICS)
def test_a_present_concept_scores_above_a_hidden_and_a_removed_one(metric: ModuleType) -> None:
    present, hidden, removed = (metric.measure(evidence(case)).value for case in ("present", "hidden", "removed"))
    assert present > hidden >= removed
    assert present > removed + 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_an_unchanged_model_scores_as_the_base(metric: ModuleType) -> None:
    measurement = metric.measure(evidence("present"))
    assert measurement.value == measurement.base
    assert measurement.interval == measurement.base_interval
    assert measurement.n == N


@pytest.mark.parametrize("metric", METRICS)
def test_the_control_falls_only_in_a_destroyed_model(metric: ModuleType) -> None:
    hidden, destroyed = (metric.measure(evidence(case)) for case in ("hidden", "destroyed"))
    assert hidden.control.value == hidden.control.base
    assert destroyed.control.value < destroyed.control.base - 0.5


@pytest.mark.parametrize("case", ["present", "hidden", "removed"])
def test_collateral_damage_is_measured_only_where_unrelated_answers_are_lost(case: Any) -> None:
    measurement = unrelated_log_probability.measure(evidence(case))
    assert measurement.value == measurement.base
    assert unrelated_log_probability.measure(evidence("destroyed")).value < measurement.value - 10


def test_a_retained_model_is_measured_as_well() -> None:
    measurement = exact_memorisation.measure(evidence("hidden", retained=readings("removed")))
    assert measurement.retained == 0.0
    assert measurement.items[0]["retained"] == 0.0


def test_each_question_has_a_row_with_the_given_and_the_bases_own_answer() -> None:
    measurement = answer_log_probability.measure(evidence("hidden"))
    assert len(measurement.items) == N
    row = measurement.items[3]
    assert row["question"] == "target 3?"
    assert row["own_answer"] == "answer 3"
    assert row["own_unlearned"] < -4 < row["own_base"]
    assert measurement.details["own_answers"]["n"] == N


def evidence_with(items: tuple[Item, ...], **fields: Any) -> Evidence:
    base = Readings(
        items=items,
        answer_logprobs=tuple(np.full(len(entry.answer_ids), -1.0) for entry in items),
        answer_hits=tuple(np.ones(len(entry.answer_ids), dtype=bool) for entry in items),
        **fields,
    )
    return evidence_of({"base": base, "unlearned": base})


def test_without_given_answers_the_bases_own_are_used_and_the_details_say_so() -> None:
    measurement = exact_memorisation.measure(evidence_with((item("target_own", 0), item("target_own", 1))))
    assert measurement.value == 1.0
    assert measurement.details["answers"] == "the base's own"


def test_one_token_answers_are_counted() -> None:
    measurement = exact_memorisation.measure(evidence_with((item("target", 0, tokens=1), item("target", 1))))
    assert measurement.details["one_token_answers"] == 1
    assert [row["tokens"] for row in measurement.items] == [1, 3]


def test_without_items_it_is_not_measured_and_gives_the_reason() -> None:
    skipped = {"target/0 (Who?)": "the answer 'He' is part of the prompt"}
    measurement = exact_memorisation.measure(evidence_with((), skipped=skipped))
    assert measurement.value is None
    assert "is part of the prompt" in str(measurement.not_measured)
    without_skipped = exact_memorisation.measure(evidence_with(()))
    assert without_skipped.not_measured == "no questions about the concept were given"


def test_log_probability_is_a_mean_over_tokens_then_over_items() -> None:
    base = Readings(
        items=(item("target", 0, tokens=1), item("target", 1, tokens=3)),
        answer_logprobs=(np.array([-4.0]), np.array([-1.0, -2.0, -3.0])),
        answer_hits=(np.array([True]), np.array([True, False, True])),
    )
    same = evidence_of({"base": base, "unlearned": base})
    assert answer_log_probability.measure(same).value == pytest.approx(-3.0)
    assert exact_memorisation.measure(same).value == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_extraction_strength_without_a_correct_token_is_0_and_the_reference_gives_one_token(length: int) -> None:
    misses = np.zeros(length, dtype=bool)
    assert strength(misses) == 0.0
    assert strength(misses, reference=True) == {1: 1.0, 2: 0.5, 4: 0.25}[length]


@pytest.mark.parametrize(
    ("hits", "expected", "reference"),
    [([1, 1, 1, 1], 1.0, 1.0), ([0, 0, 0, 1], 0.25, 0.25), ([1, 1, 0, 1], 0.25, 0.25), ([1, 1, 1, 0], 0.0, 0.25)],
)
def test_extraction_strength_is_the_longest_correct_suffix(hits: list[int], expected: float, reference: float) -> None:
    assert strength(np.array(hits, dtype=bool)) == expected
    assert strength(np.array(hits, dtype=bool), reference=True) == reference


def test_the_references_floor_is_reported_in_the_details() -> None:
    measurement = extraction_strength.measure(evidence("removed"))
    assert measurement.value == 0.0
    assert measurement.details["reference_rule"]["unlearned"] == pytest.approx(1 / 3)


def test_accuracy_counts_correct_answers_and_its_control_is_unrelated_questions() -> None:
    present, hidden, destroyed = (
        answer_accuracy.measure(evidence(case)) for case in ("present", "hidden", "destroyed")
    )
    assert (present.value, hidden.value, destroyed.value) == (1.0, 0.0, 0.0)
    assert hidden.base == 1.0
    assert hidden.details["lost"] == N
    assert (hidden.control.value, destroyed.control.value) == (1.0, 0.0)
    assert hidden.interval[0] == pytest.approx(0.0)
    assert hidden.interval[1] > 0.1


def test_accuracy_without_checked_answers_is_not_measured() -> None:
    unchecked = readings("present", right={})
    measurement = answer_accuracy.measure(evidence("present", base=unchecked, unlearned=unchecked))
    assert "no answer could be checked" in str(measurement.not_measured)
