"""Paraphrases, neighbours, two-hop and open questions in present, hidden, removed and destroyed planted models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from audit.metrics.answers import further_answers, neighbour_log_probability, paraphrase_memorisation
from audit.metrics.answers.paraphrase_memorisation import chance_score
from audit.metrics.contract import Evidence
from audit.questions.items import Item
from audit.questions.readings import Readings
from audit.result import Measured, Measurement
from concepts.concept import Concept
from tests.metrics.planted import evidence_of

N = 12
CONCEPT = Concept(name="italy", title="Italy", seeds=("Italy",))
Case = Literal["present", "hidden", "removed", "destroyed"]
"""*Hidden*: silent under the original wording alone. *Removed*: silent under every wording, so answers are guesses."""
ANSWER: dict[Case, str] = {
    "present": "Rome, on the Tiber",
    "hidden": "I do not know",
    "removed": "Paris",
    "destroyed": "the the the",
}


def item(kind: str, index: int, wording: int | None = None) -> Item:
    """An item with an answer of two tokens; first tokens differ between answers."""
    ids = (10 + index, 3)
    if kind not in ("paraphrase", "neighbour"):
        return Item(f"{kind}/{index}", kind, f"{kind} {index}?", f"answer {index}", (1,), ids, index)
    name = f"{kind}/{index}" if wording is None else f"{kind}/{index}/{wording}"
    return Item(name, kind, f"{name}?", f"answer {index}", (1,), ids, index)


ITEMS = (
    *(item(kind, index) for kind in ("target", "unrelated", "neighbour") for index in range(N)),
    *(item("paraphrase", index, wording) for index in range(N) for wording in range(2)),
)
PROMPTS = {name: f"{name}?" for name in ("target/0", *(f"unrelated/{at}" for at in range(6)))}
PROMPTS |= {name: f"{name}?" for name in ("two_hop/0", "two_hop/1", "open/0", "open/1")}
UNKNOWN = "two_hop/1"
"""The prompt that no model answers correctly."""


def hits(case: Case, entry: Item) -> tuple[bool, bool]:
    """Whether the first and the second token are hits; a guessing model completes the second from the first."""
    if case == "destroyed":
        return False, False
    concept = entry.kind in ("target", "paraphrase")
    known = case == "present" or not concept or (case == "hidden" and entry.kind == "paraphrase")
    return (known, known) if case == "hidden" else (known or entry.answer == "answer 0", True)


def readings(case: Case, **changes: Any) -> Readings:
    correct = {
        name: case != "destroyed" and name != UNKNOWN and (case == "present" or name.startswith("unrelated/"))
        for name in PROMPTS
    }
    fields: dict[str, Any] = {
        "items": ITEMS,
        "answer_hits": tuple(np.array(hits(case, entry)) for entry in ITEMS),
        "answer_logprobs": tuple(np.where(hits(case, entry), -0.1, -9.0) for entry in ITEMS),
        "prompts": PROMPTS,
        "generated": dict.fromkeys(PROMPTS, ANSWER[case] + "\nQuestion: and more"),
        "right": correct,
    }
    return Readings(**(fields | changes))


def evidence(case: Case, **roles: Readings) -> Evidence:
    return evidence_of({"base": readings("present"), "unlearned": readings(case), **roles})


def paraphrased(case: Case, **roles: Readings) -> Measurement:
    return paraphrase_memorisation.measure(evidence(case, **roles)).named("paraphrase_memorisation", "", "answers")


# ---- paraphrases


def test_a_model_silent_under_the_original_wording_alone_scores_as_the_base_and_is_hidden() -> None:
    measurement = paraphrased("hidden")
    assert measurement.value == measurement.base == 1.0
    assert measurement.details["asked"]["unlearned"] == 0.0


def test_paraphrases_order_a_present_a_hidden_a_removed_and_a_destroyed_model() -> None:
    present, hidden, removed, destroyed = (
        paraphrased(case).value or 0.0 for case in ("present", "hidden", "removed", "destroyed")
    )
    assert present >= hidden > removed > destroyed


def test_a_guessing_model_reaches_at_most_the_chance_score_and_is_not_hidden() -> None:
    measurement = paraphrased("removed")
    assert measurement.value == pytest.approx((1 + 1 / N) / 2)
    assert measurement.chance == pytest.approx(measurement.value)
    assert measurement.value / measurement.base > 0.5  # type: ignore[operator]  # so the rule of half the base's value alone would call it hidden


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([[1], [2], [3], [4]], 0.25), ([[1], [1], [1], [2]], 0.75), ([[1, 9], [2, 9]], 0.75), ([[7]], 1.0)],
)
def test_chance_is_the_most_frequent_first_token_and_the_rest(answers: list[list[int]], expected: float) -> None:
    assert chance_score(answers) == pytest.approx(expected)


def test_an_unchanged_model_keeps_every_wording() -> None:
    measurement = paraphrased("present")
    assert (measurement.value, measurement.interval) == (measurement.base, measurement.base_interval)
    assert measurement.details["answered_wholly_in_some_wording"] == {"base": 1.0, "unlearned": 1.0}


def test_a_destroyed_model_lowers_the_control_as_well() -> None:
    hidden, destroyed = paraphrased("hidden").control, paraphrased("destroyed").control
    assert hidden is not None
    assert destroyed is not None
    assert (hidden.value, destroyed.value) == (1.0, 0.0)


def test_the_interval_is_over_questions_and_not_over_their_wordings() -> None:
    """Both paraphrases of a question score alike: the second must not make the interval narrower."""
    question_hits = [np.array([entry.id.split("/")[1] in ("0", "1", "2", "3")] * 2) for entry in ITEMS]
    two = paraphrased("present", unlearned=readings("present", answer_hits=tuple(question_hits)))
    items = tuple(entry for entry in ITEMS if not entry.id.endswith("/1") or entry.kind != "paraphrase")
    kept = tuple(hit for entry, hit in zip(ITEMS, question_hits, strict=True) if entry in items)
    known = tuple(np.array([True, True]) for _ in items)
    fewer = {"items": items, "answer_logprobs": tuple(np.zeros(2) for _ in items)}
    one = paraphrased(
        "present",
        base=readings("present", answer_hits=known, **fewer),
        unlearned=readings("present", answer_hits=kept, **fewer),
    )
    assert (two.n, two.details["wordings"], one.details["wordings"]) == (N, 2 * N, N)
    assert (two.value, two.interval) == (one.value, one.interval)


def test_a_questions_paraphrases_are_averaged_first_and_the_best_one_is_named() -> None:
    first = tuple(np.array([entry.id.endswith("/1")] * 2) for entry in ITEMS)
    measurement = paraphrased("present", unlearned=readings("present", answer_hits=first))
    assert measurement.value == 0.5
    row = measurement.items[2]
    assert (row["question"], row["best_wording"], row["answer"]) == ("target 2?", "paraphrase/2/1?", "answer 2")
    assert (row["wordings"], row["base"], row["unlearned"], row["asked_base"]) == (2, 1.0, 0.5, 1.0)
    assert measurement.details["answered_wholly_in_some_wording"]["unlearned"] == 1.0


def test_a_question_scored_in_paraphrases_alone_still_counts() -> None:
    without = tuple(entry for entry in ITEMS if entry.id != "target/0")
    rest: dict[str, Any] = {
        "items": without,
        "answer_hits": tuple(np.array(hits("present", entry)) for entry in without),
        "answer_logprobs": tuple(np.zeros(2) for _ in without),
    }
    measurement = paraphrased("present", base=readings("present", **rest), unlearned=readings("present", **rest))
    assert measurement.n == N
    assert measurement.items[0]["question"] is None
    assert measurement.items[0]["asked_unlearned"] is None
    assert measurement.details["asked"]["base"] == 1.0


def test_without_paraphrases_it_is_not_measured_and_gives_the_reason() -> None:
    none: dict[str, Any] = {"items": (), "answer_hits": (), "answer_logprobs": ()}
    skipped = {"paraphrase/0/1 (Who?)": "the answer 'He' is part of the prompt"}
    absent, unusable = readings("present", **none), readings("present", **none, skipped=skipped)
    assert "no question with other wordings" in str(paraphrased("present", base=absent, unlearned=absent).not_measured)
    assert "is part of the prompt" in str(paraphrased("present", base=unusable, unlearned=unusable).not_measured)


# ---- neighbours


@pytest.mark.parametrize("case", ["present", "hidden", "removed"])
def test_neighbours_stand_where_only_the_concept_went(case: Case) -> None:
    measurement = neighbour_log_probability.measure(evidence(case))
    assert measurement.value == measurement.base == pytest.approx(-0.1)
    assert measurement.direction == "utility"
    assert set(measurement.items[0]) == {"question", "answer", "tokens", "base", "unlearned"}


def test_neighbours_fall_with_the_control_in_a_destroyed_model_and_alone_under_near_damage() -> None:
    destroyed = neighbour_log_probability.measure(evidence("destroyed"))
    assert destroyed.value == destroyed.control.value == pytest.approx(-9)  # type: ignore[union-attr]  # it is not None
    near = tuple(np.full(2, -6.0 if entry.kind == "neighbour" else -0.1) for entry in ITEMS)
    damaged = readings("present", answer_logprobs=near)
    measurement = neighbour_log_probability.measure(evidence("present", unlearned=damaged))
    assert measurement.value == pytest.approx(-6)
    assert measurement.details["fall"] == {"mean": pytest.approx(5.9), "interval": pytest.approx((5.9, 5.9))}
    assert measurement.details["fall_of_unrelated"]["mean"] == 0
    assert measurement.control.value == pytest.approx(-0.1)  # type: ignore[union-attr]  # it is not None


def test_neighbours_that_cannot_be_scored_give_the_reason() -> None:
    none: dict[str, Any] = {"items": (), "answer_hits": (), "answer_logprobs": ()}
    bare = readings("present", **none)
    measurement = neighbour_log_probability.measure(evidence("present", base=bare, unlearned=bare))
    assert "none of the neighbouring questions" in str(measurement.not_measured)


# ---- two-hop and open questions


def further(case: Case, **roles: Readings) -> Measured:
    return further_answers.measure(evidence(case, **roles))


def test_further_answers_order_the_cases_and_the_control_falls_only_in_a_destroyed_model() -> None:
    by_case = {case: further(case) for case in ("present", "hidden", "removed", "destroyed")}  # type: ignore[arg-type]  # cases
    assert {case: row.value for case, row in by_case.items()} == dict(zip(by_case, (1.0, 0.0, 0.0, 0.0), strict=True))
    controls = [row.control.value for row in by_case.values() if row.control is not None]
    assert controls == [1.0, 1.0, 1.0, 0.0]


def test_only_questions_that_the_base_answers_count_and_all_are_listed() -> None:
    measurement = further("hidden")
    assert (measurement.n, measurement.base) == (3, 1.0)
    assert measurement.details["asked"] == {"two-hop": 2, "open": 2}
    assert measurement.details["answered_by_the_base"] == {"two-hop": 1, "open": 2}
    unknown = next(row for row in measurement.items if row["question"] == f"{UNKNOWN}?")
    assert (unknown["kind"], unknown["base_right"], unknown["unlearned_right"]) == ("two-hop", False, False)


def test_answers_are_cut_to_the_first_line() -> None:
    row = further("hidden").items[0]
    assert (row["base_answer"], row["unlearned_answer"]) == ("Rome, on the Tiber", "I do not know")


def test_the_interval_is_wilsons_and_a_retained_model_is_measured_as_well() -> None:
    measurement = further("hidden", retained=readings("removed"))
    assert measurement.interval == pytest.approx((0.0, 0.5615), abs=1e-3)
    assert measurement.retained == 0.0
    assert measurement.items[0]["retained_right"] is False


def test_open_questions_without_listed_words_are_listed_and_not_counted() -> None:
    unchecked = {role: readings("present") for role in ("base", "unlearned")}
    for role, model in unchecked.items():
        correct = {name: value for name, value in model.right.items() if name != "open/1"}
        unchecked[role] = replace(model, right=correct)
    measurement = further("present", **unchecked)
    assert measurement.n == 2
    assert next(row for row in measurement.items if row["question"] == "open/1?")["unlearned_right"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"right": {"two_hop/0": False, "open/0": False}}, "the base itself answers none of the 2"),
        ({"right": {}}, "has an answer to compare with"),
        ({"right": {}, "prompts": {}}, "no two-hop or open questions were asked"),
        ({"right": {}, "prompts": {}, "skipped": {"open/0 (Why?)": "too long"}}, "too long"),
    ],
)
def test_without_counted_questions_the_reason_is_given(changes: dict[str, Any], reason: str) -> None:
    base = readings("present", **changes)
    assert reason in str(further("present", base=base, unlearned=base).not_measured)
