"""Measurements on the page: each lands under a question by its record alone, and the worst news comes first."""

from __future__ import annotations

from typing import Any

import pytest

from audit.result import Measurement
from reports.measurements import grouped, views
from reports.questions import CHANGED, DAMAGED, PROTECTED, QUESTIONS, READ, RECOVERED, SAYS, by_question, question_of
from tests.sample_guard import guarded
from tests.sample_measurements import concept_measurements


def row(metric: str = "new", value: float | None = 0.5, base: float | None = 1.0, **fields: Any) -> Measurement:
    reason = {"not_measured": "no input"} if value is None else {}
    return Measurement(metric=metric, title=metric, value=value, base=base, **{**reason, **fields})


@pytest.mark.parametrize(
    ("fields", "question"),
    [
        ({"source": "answers", "direction": "knowledge"}, SAYS),
        ({"source": "internals", "direction": "knowledge"}, READ),
        ({"source": "internals", "direction": "change"}, CHANGED),
        ({"source": "internals", "direction": "none"}, CHANGED),
        ({"source": "attacks", "direction": "knowledge"}, RECOVERED),
        ({"source": "answers", "direction": "knowledge", "condition": "rounding: 4 bits"}, RECOVERED),
        ({"source": "attacks", "direction": "protection"}, PROTECTED),
        ({"source": "answers", "direction": "utility"}, DAMAGED),
        ({"source": "answers", "direction": "none"}, DAMAGED),
        ({"source": "weights", "direction": "knowledge"}, CHANGED),
        ({"source": "weights", "direction": "none"}, CHANGED),
    ],
)
def test_a_metric_that_the_report_does_not_know_lands_by_its_source_and_direction(
    fields: dict[str, Any], question: str
) -> None:
    assert question_of(row(**fields)) == question


@pytest.mark.parametrize(
    ("direction", "question"),
    [("knowledge", READ), ("utility", DAMAGED), ("change", CHANGED), ("protection", PROTECTED)],
)
def test_a_measurement_of_an_old_result_lands_by_its_direction(direction: str, question: str) -> None:
    assert question_of(row(direction=direction)) == question


def order(*rows: Measurement) -> list[str]:
    (places,) = by_question(rows).values()
    return [rows[place].metric for place in places]


def test_what_kept_more_of_the_base_comes_first() -> None:
    low, high, same = (
        row(name, value, source="answers", direction="knowledge")
        for name, value in (("low", 0.1), ("high", 0.7), ("same", 1.0))
    )
    assert order(low, high, same) == ["same", "high", "low"]


def test_a_loss_of_log_probability_is_compared_as_a_probability() -> None:
    near, far = (
        row(name, value, -0.5, source="answers", direction="knowledge")
        for name, value in (("near", -1.0), ("far", -9.0))
    )
    assert order(far, near) == ["near", "far"]


def test_knowledge_that_its_own_test_finds_comes_before_a_larger_number() -> None:
    found = row("found", 0.1, 9.0, source="internals", direction="knowledge", reading="inverted")
    tested = row("tested", 0.1, 9.0, source="internals", direction="knowledge", p_value=0.001)
    larger = row("larger", 0.9, source="internals", direction="knowledge")
    assert order(larger, found, tested) == ["found", "tested", "larger"]


def test_forgetting_is_bad_news_where_it_is_small() -> None:
    little, much = (
        row(name, value, 10.0, source="internals", direction="forgetting")
        for name, value in (("little", 12.0), ("much", 900.0))
    )
    assert order(much, little) == ["little", "much"]


def test_damage_comes_before_health() -> None:
    broken, healthy = row("broken", 0.2, direction="utility"), row("healthy", 0.9, direction="utility")
    louder = row("louder", 60.0, 20.0, direction="none")
    assert order(healthy, louder, broken) == ["broken", "louder", "healthy"]


def test_a_protection_that_misses_more_comes_first() -> None:
    assert order(row("tight", 0.9, direction="protection"), row("leaky", 0.2, direction="protection")) == [
        "leaky",
        "tight",
    ]


def test_what_was_not_measured_is_listed_last_and_nothing_is_lost() -> None:
    rows = concept_measurements(12, 0.08)
    groups = grouped(rows, views(rows, "concept-italy"))
    assert [group.title for group in groups] == [
        *(title for title in QUESTIONS if title in {group.title for group in groups}),
        "Not measured",
    ]
    shown = [measured.metric for group in groups for measured in group.measured]
    assert sorted(shown) == sorted(measurement.metric for measurement in rows)
    assert [measured.metric for measured in groups[-1].measured] == ["target_token_rank"]


def test_a_guard_is_asked_whether_it_holds() -> None:
    rows = guarded().findings[0].measurements
    assert [group.title for group in grouped(rows, views(rows, "pair"))] == [PROTECTED]
