"""Each rule of the verdict: a case to which it applies, and a similar case to which it does not."""

from __future__ import annotations

from typing import Any

import pytest

from audit.result import Control, LayerReading, Measurement
from audit.verdict import Case, judge


def memorised(
    unlearned: float, base: float = 0.9, unrelated: float = 0.8, unrelated_base: float = 0.8, n: int = 12
) -> Measurement:
    return Measurement(
        metric="exact_memorisation",
        title="Exact memorisation",
        value=unlearned,
        base=base,
        interval=(max(unlearned - 0.1, 0), unlearned + 0.1),
        n=n,
        control=Control(name="unrelated questions", value=unrelated, base=unrelated_base),
    )


def perplexity(unlearned: float, base: float = 20.0) -> Measurement:
    return Measurement(metric="perplexity", title="Perplexity", value=unlearned, base=base, direction="none")


def association(p_value: float, reading: str, lens: dict[str, Any] | None = None) -> Measurement:
    at = None if lens is None else LayerReading(**lens)
    fields: dict[str, Any] = {"p_value": p_value, "reading": reading, "lens": at}
    return Measurement(metric="association", title="Association", value=1.0, **fields)


def case(*measurements: Measurement, **fields: Any) -> Case:
    return Case("Italy", {measurement.metric: measurement for measurement in measurements}, **fields)


def test_a_model_that_still_answers_is_present() -> None:
    finding = judge("italy", case(memorised(0.85), perplexity(21)))
    assert finding.verdict == "present"
    assert "still says it" in finding.reason


def test_a_silent_model_whose_truth_can_be_read_is_hidden() -> None:
    finding = judge("italy", case(memorised(0.1), perplexity(21), association(0.0002, "readable")))
    assert finding.verdict == "hidden"
    assert "p = 0.0002" in finding.reason


def test_a_truth_read_only_by_lens_is_hidden_and_names_the_layer() -> None:
    lens = {"layer": 12, "reading": "readable", "p_value": 0.001}
    finding = judge("italy", case(memorised(0.1), association(0.4, "none", lens)))
    assert finding.verdict == "hidden"
    assert "after layer 12" in finding.reason


def test_an_inverted_truth_is_hidden_and_says_inverted() -> None:
    finding = judge("italy", case(memorised(0.0), association(0.0001, "inverted")))
    assert finding.verdict == "hidden"
    assert "inverted" in finding.reason


def test_readable_takes_precedence_over_inverted() -> None:
    lens = {"layer": 3, "reading": "readable", "p_value": 0.001}
    finding = judge("italy", case(memorised(0.0), association(0.0001, "inverted", lens)))
    assert "distinguishes the true answers" in finding.reason


def test_answers_that_a_retained_model_prefers_as_much_are_guessed_and_not_hidden() -> None:
    guessed = association(0.0001, "readable").model_copy(update={"interval": (0.8, 1.2), "retained": 1.0})
    known = guessed.model_copy(update={"retained": 0.1})
    assert judge("italy", case(memorised(0.1), guessed)).verdict == "inconclusive"
    assert judge("italy", case(memorised(0.1), known)).verdict == "hidden"


def test_silence_alone_is_never_removed_and_names_the_tests_that_would_decide() -> None:
    finding = judge("italy", case(memorised(0.1), perplexity(21), association(0.3, "none")))
    assert finding.verdict == "inconclusive"
    assert "relearning" in finding.reason


@pytest.mark.parametrize("broken", [perplexity(900.0), memorised(0.0, unrelated=0.1)], ids=["perplexity", "unrelated"])
def test_a_broken_model_is_destroyed_not_erased(broken: Measurement) -> None:
    finding = judge("italy", case(memorised(0.0), perplexity(22), association(0.3, "none"), broken))
    assert finding.verdict == "destroyed"


def test_a_small_loss_of_fluency_is_not_destruction() -> None:
    finding = judge("italy", case(memorised(0.0, unrelated=0.6), perplexity(30), association(0.3, "none")))
    assert finding.verdict == "inconclusive"


def test_a_topic_unknown_to_the_base_is_inconclusive() -> None:
    finding = judge("italy", case(memorised(0.1, base=0.2), perplexity(21), association(0.3, "none")))
    assert finding.verdict == "inconclusive"
    assert "too little" in finding.reason


def test_identical_weights_say_so_and_are_present() -> None:
    finding = judge("italy", case(memorised(0.9), perplexity(20), identical=True))
    assert finding.verdict == "present"
    assert "identical, bit for bit" in finding.reason


def test_identical_weights_behind_a_guard_are_gated() -> None:
    finding = judge("italy", case(memorised(0.9), identical=True, guard="guard.json"))
    assert finding.verdict == "gated"
    assert "guard.json" in finding.reason


def test_weights_equal_after_rounding_are_judged_by_the_answers_of_the_model_that_was_run() -> None:
    rounded = {"equal_at_coarser": "bfloat16"}
    present = judge("italy", case(memorised(0.9), perplexity(20), **rounded))
    silent = judge("italy", case(memorised(0.1), perplexity(20), association(0.0002, "readable"), **rounded))
    gated = judge("italy", case(memorised(0.9), guard="guard.json", **rounded))
    assert [finding.verdict for finding in (present, silent, gated)] == ["present", "hidden", "gated"]
    for finding in (present, silent, gated):
        assert "equal at the coarser precision (bfloat16)" in finding.reason
        assert "bit for bit" not in finding.reason


def test_identical_weights_without_questions_are_inconclusive() -> None:
    assert judge(None, Case(None, {}, identical=True)).verdict == "inconclusive"


def test_weights_alone_are_inconclusive_and_name_what_is_missing() -> None:
    finding = judge("italy", case(missing={"model": "no config.json beside the weights"}))
    assert finding.verdict == "inconclusive"
    assert "no config.json" in finding.reason


def test_weights_that_are_not_finite_are_named() -> None:
    finding = judge("italy", case(memorised(0.0), nonfinite={"unlearned": ["model.norm.weight"]}))
    assert finding.verdict == "inconclusive"
    assert "model.norm.weight" in finding.reason


def test_every_finding_says_what_would_have_reversed_it() -> None:
    assert judge("italy", case(memorised(0.85))).would_reverse
    assert judge("italy", case(memorised(0.1))).would_reverse
