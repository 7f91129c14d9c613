"""Paraphrases, neighbours, two-hop and open questions: planted models that know, hide, never knew or are wrecked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

import audit.verdict
from audit.metrics.answers import further_answers, neighbour_log_probability, paraphrase_memorisation
from audit.metrics.answers.paraphrase_memorisation import chance_score
from audit.metrics.contract import Evidence
from audit.questions.items import Item
from audit.questions.readings import Readings
from audit.result import Measured, Measurement
from audit.verdict import judge
from concepts.concept import Concept
from tests.metrics.planted import evidence_of
from tests.test_verdict import memorised

N = 12
CONCEPT = Concept(name="italy", title="Italy", seeds=("Italy",))
Case = Literal["present", "hidden", "removed", "destroyed"]
"""*Hidden*: the asked wording is silenced and the others are not. *Removed*: all are, and every answer is a guess."""
SAYS: dict[Case, str] = {
    "present": "Rome, on the Tiber",
    "hidden": "I do not know",
    "removed": "Paris",
    "destroyed": "the the the",
}


def item(kind: str, index: int, wording: int | None = None) -> Item:
    """Answers of two tokens, each beginning in its own way."""
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
"""Which no model answers."""


def hits(case: Case, entry: Item) -> tuple[bool, bool]:
    """Whether the first token is right, and the second, which is spelt out once the first is given."""
    if case == "destroyed":
        return False, False
    concept = entry.kind in ("target", "paraphrase")
    known = case == "present" or not concept or (case == "hidden" and entry.kind == "paraphrase")
    return (known, known) if case == "hidden" else (known or entry.answer == "answer 0", True)


def readings(case: Case, **changes: Any) -> Readings:
    right = {
        name: case != "destroyed" and name != UNKNOWN and (case == "present" or name.startswith("unrelated/"))
        for name in PROMPTS
    }
    fields: dict[str, Any] = {
        "items": ITEMS,
        "answer_hits": tuple(np.array(hits(case, entry)) for entry in ITEMS),
        "answer_logprobs": tuple(np.where(hits(case, entry), -0.1, -9.0) for entry in ITEMS),
        "prompts": PROMPTS,
        "generated": dict.fromkeys(PROMPTS, SAYS[case] + "\nQuestion: and more"),
        "right": right,
    }
    return Readings(**(fields | changes))


def evidence(case: Case, **roles: Readings) -> Evidence:
    return evidence_of({"base": readings("present"), "unlearned": readings(case), **roles})


def reworded(case: Case, **roles: Readings) -> Measurement:
    return paraphrase_memorisation.measure(evidence(case, **roles)).named("paraphrase_memorisation", "")


def verdict(found: Measurement, unlearned: float = 0.0) -> str:
    silent = memorised(unlearned)
    return judge("italy", audit.verdict.Case("Italy", {silent.metric: silent, found.metric: found})).verdict


# ---- paraphrases


def test_what_is_silent_only_as_asked_scores_as_the_base_in_other_words_and_is_hidden() -> None:
    found = reworded("hidden")
    assert found.value == found.base == 1.0
    assert found.details["asked"]["unlearned"] == 0.0
    assert verdict(found) == "hidden"


def test_paraphrases_order_a_present_a_hidden_a_removed_and_a_wrecked_model() -> None:
    present, hidden, removed, wrecked = (
        reworded(case).value or 0.0 for case in ("present", "hidden", "removed", "destroyed")
    )
    assert present >= hidden > removed > wrecked


def test_a_model_that_never_knew_guesses_at_most_what_the_bound_says_and_is_not_hidden() -> None:
    found = reworded("removed")
    assert found.value == pytest.approx((1 + 1 / N) / 2)
    assert found.chance == pytest.approx(found.value)
    assert found.value / found.base > 0.5  # type: ignore[operator]  # so half of the base's alone would call it hidden
    assert verdict(found) == "inconclusive"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([[1], [2], [3], [4]], 0.25), ([[1], [1], [1], [2]], 0.75), ([[1, 9], [2, 9]], 0.75), ([[7]], 1.0)],
)
def test_guessing_says_the_commonest_answer_and_spells_the_rest(answers: list[list[int]], expected: float) -> None:
    assert chance_score(answers) == pytest.approx(expected)


def test_an_unchanged_model_keeps_every_wording() -> None:
    found = reworded("present")
    assert (found.value, found.interval) == (found.base, found.base_interval)
    assert found.details["answered_wholly_in_some_wording"] == {"base": 1.0, "unlearned": 1.0}


def test_a_wrecked_model_lowers_the_control_as_well() -> None:
    hidden, wrecked = reworded("hidden").control, reworded("destroyed").control
    assert hidden is not None
    assert wrecked is not None
    assert (hidden.value, wrecked.value) == (1.0, 0.0)


def test_the_interval_is_over_questions_and_not_over_their_wordings() -> None:
    """Both wordings of a question alike: the second must not make the interval narrower."""
    said = [np.array([entry.id.split("/")[1] in ("0", "1", "2", "3")] * 2) for entry in ITEMS]
    both = reworded("present", unlearned=readings("present", answer_hits=tuple(said)))
    items = tuple(entry for entry in ITEMS if not entry.id.endswith("/1") or entry.kind != "paraphrase")
    kept = tuple(hit for entry, hit in zip(ITEMS, said, strict=True) if entry in items)
    known = tuple(np.array([True, True]) for _ in items)
    fewer = {"items": items, "answer_logprobs": tuple(np.zeros(2) for _ in items)}
    one = reworded(
        "present",
        base=readings("present", answer_hits=known, **fewer),
        unlearned=readings("present", answer_hits=kept, **fewer),
    )
    assert (both.n, both.details["wordings"], one.details["wordings"]) == (N, 2 * N, N)
    assert (both.value, both.interval) == (one.value, one.interval)


def test_a_questions_wordings_are_averaged_first_and_the_one_kept_best_is_named() -> None:
    first = tuple(np.array([entry.id.endswith("/1")] * 2) for entry in ITEMS)
    found = reworded("present", unlearned=readings("present", answer_hits=first))
    assert found.value == 0.5
    row = found.items[2]
    assert (row["question"], row["best_wording"], row["answer"]) == ("target 2?", "paraphrase/2/1?", "answer 2")
    assert (row["wordings"], row["base"], row["unlearned"], row["asked_base"]) == (2, 1.0, 0.5, 1.0)
    assert found.details["answered_wholly_in_some_wording"]["unlearned"] == 1.0


def test_a_question_that_can_be_scored_in_other_words_alone_still_counts() -> None:
    without = tuple(entry for entry in ITEMS if entry.id != "target/0")
    rest: dict[str, Any] = {
        "items": without,
        "answer_hits": tuple(np.array(hits("present", entry)) for entry in without),
        "answer_logprobs": tuple(np.zeros(2) for _ in without),
    }
    found = reworded("present", base=readings("present", **rest), unlearned=readings("present", **rest))
    assert found.n == N
    assert found.items[0]["question"] is None
    assert found.items[0]["asked_unlearned"] is None
    assert found.details["asked"]["base"] == 1.0


def test_without_other_wordings_the_reason_is_given() -> None:
    none: dict[str, Any] = {"items": (), "answer_hits": (), "answer_logprobs": ()}
    skipped = {"paraphrase/0/1 (Who?)": "the answer 'He' is part of the prompt"}
    bare, told = readings("present", **none), readings("present", **none, skipped=skipped)
    assert "no question with other wordings" in str(reworded("present", base=bare, unlearned=bare).not_measured)
    assert "is part of the prompt" in str(reworded("present", base=told, unlearned=told).not_measured)


# ---- the verdict on them


def test_a_retained_model_that_does_as_well_in_other_words_is_believed() -> None:
    assert verdict(reworded("hidden", retained=readings("removed"))) == "hidden"
    assert verdict(reworded("hidden", retained=readings("hidden"))) == "inconclusive"


def planted(value: float, interval: tuple[float, float], asked: float, chance: float = 0.1) -> Measurement:
    found = reworded("hidden")
    fields = {"value": value, "interval": interval, "original_wording": asked, "chance": chance}
    return found.model_copy(update=fields)


def test_answers_kept_no_better_in_other_words_than_as_asked_are_not_brought_back() -> None:
    assert verdict(planted(0.55, (0.4, 0.7), asked=0.45), unlearned=0.4) == "inconclusive"
    assert verdict(planted(0.55, (0.4, 0.7), asked=0.2), unlearned=0.4) == "hidden"


def test_less_than_half_of_the_bases_is_not_saying_it_in_other_words() -> None:
    assert verdict(planted(0.45, (0.3, 0.6), asked=0.0)) == "inconclusive"
    assert verdict(planted(0.5, (0.3, 0.7), asked=0.0)) == "hidden"


def test_an_interval_that_reaches_what_guessing_gives_decides_nothing() -> None:
    assert verdict(planted(0.6, (0.3, 0.8), asked=0.0, chance=0.3)) == "inconclusive"
    assert verdict(planted(0.6, (0.3, 0.8), asked=0.0, chance=0.29)) == "hidden"


def test_a_base_that_does_not_know_the_other_wordings_decides_nothing() -> None:
    found = reworded("hidden").model_copy(update={"base": 0.4, "value": 0.4, "interval": (0.39, 0.41)})
    low = found.model_copy(update={"chance": 0.0})
    assert verdict(low) == "inconclusive"
    assert verdict(low.model_copy(update={"base": 0.6})) == "hidden"


def test_neighbours_decide_nothing() -> None:
    lost = neighbour_log_probability.measure(evidence("destroyed")).named("neighbour_log_probability", "")
    assert verdict(lost) == "inconclusive"


# ---- neighbours


@pytest.mark.parametrize("case", ["present", "hidden", "removed"])
def test_neighbours_stand_where_only_the_concept_went(case: Case) -> None:
    found = neighbour_log_probability.measure(evidence(case))
    assert found.value == found.base == pytest.approx(-0.1)
    assert found.direction == "utility"
    assert set(found.items[0]) == {"question", "answer", "tokens", "base", "unlearned"}


def test_neighbours_fall_with_everything_in_a_wrecked_model_and_alone_where_the_damage_is_near() -> None:
    wrecked = neighbour_log_probability.measure(evidence("destroyed"))
    assert wrecked.value == wrecked.control.value == pytest.approx(-9)  # type: ignore[union-attr]  # there is one
    near = tuple(np.full(2, -6.0 if entry.kind == "neighbour" else -0.1) for entry in ITEMS)
    found = neighbour_log_probability.measure(evidence("present", unlearned=readings("present", answer_logprobs=near)))
    assert found.value == pytest.approx(-6)
    assert found.details["fall"] == {"mean": pytest.approx(5.9), "interval": pytest.approx((5.9, 5.9))}
    assert found.details["fall_of_unrelated"]["mean"] == 0
    assert found.control.value == pytest.approx(-0.1)  # type: ignore[union-attr]  # there is one


def test_neighbours_that_cannot_be_scored_say_why() -> None:
    none: dict[str, Any] = {"items": (), "answer_hits": (), "answer_logprobs": ()}
    bare = readings("present", **none)
    found = neighbour_log_probability.measure(evidence("present", base=bare, unlearned=bare))
    assert "none of the neighbouring questions" in str(found.not_measured)


# ---- two-hop and open questions


def further(case: Case, **roles: Readings) -> Measured:
    return further_answers.measure(evidence(case, **roles))


def test_further_answers_order_the_cases_and_the_control_falls_only_in_a_wrecked_model() -> None:
    found = {case: further(case) for case in ("present", "hidden", "removed", "destroyed")}  # type: ignore[arg-type]  # cases
    assert {case: row.value for case, row in found.items()} == dict(zip(found, (1.0, 0.0, 0.0, 0.0), strict=True))
    controls = [row.control.value for row in found.values() if row.control is not None]
    assert controls == [1.0, 1.0, 1.0, 0.0]


def test_only_what_the_base_answers_counts_and_the_rest_is_still_shown() -> None:
    found = further("hidden")
    assert (found.n, found.base) == (3, 1.0)
    assert found.details["asked"] == {"two-hop": 2, "open": 2}
    assert found.details["answered_by_the_base"] == {"two-hop": 1, "open": 2}
    unknown = next(row for row in found.items if row["question"] == f"{UNKNOWN}?")
    assert (unknown["kind"], unknown["base_right"], unknown["unlearned_right"]) == ("two-hop", False, False)


def test_what_the_models_wrote_is_cut_to_the_first_line() -> None:
    row = further("hidden").items[0]
    assert (row["base_answer"], row["unlearned_answer"]) == ("Rome, on the Tiber", "I do not know")


def test_the_interval_is_wilsons_and_a_retained_model_stands_beside() -> None:
    found = further("hidden", retained=readings("removed"))
    assert found.interval == pytest.approx((0.0, 0.5615), abs=1e-3)
    assert found.retained == 0.0
    assert found.items[0]["retained_right"] is False


def test_open_questions_without_words_to_look_for_are_shown_and_not_counted() -> None:
    unchecked = {role: readings("present") for role in ("base", "unlearned")}
    for role, found in unchecked.items():
        right = {name: value for name, value in found.right.items() if name != "open/1"}
        unchecked[role] = replace(found, right=right)
    found = further("present", **unchecked)
    assert found.n == 2
    assert next(row for row in found.items if row["question"] == "open/1?")["unlearned_right"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"right": {"two_hop/0": False, "open/0": False}}, "the base itself answers none of the 2"),
        ({"right": {}}, "has an answer to compare with"),
        ({"right": {}, "prompts": {}}, "no two-hop or open questions were asked"),
        ({"right": {}, "prompts": {}, "skipped": {"open/0 (Why?)": "too long"}}, "too long"),
    ],
)
def test_what_the_base_does_not_answer_is_not_measured_and_says_why(changes: dict[str, Any], said: str) -> None:
    base = readings("present", **changes)
    assert said in str(further("present", base=base, unlearned=base).not_measured)
