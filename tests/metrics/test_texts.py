"""BLEU and ROUGE-L against the base's answers; golden values of the references."""

from __future__ import annotations

from types import ModuleType

import pytest

from audit.metrics.answers import bleu, rouge_l
from concepts.similarity import bleu as bleu_of
from concepts.similarity import rouge_l as rouge_of
from tests.metrics.planted import N, evidence, readings

FOX = "the quick brown fox jumps over the lazy dog today"
LEAP = "the quick brown fox leaps over a lazy dog"
BOOKS = "The author's books were written about running families and cities."
BOOK = "The authors book was writing about run family and city."


def test_bleu_has_the_reference_values_in_both_roles() -> None:
    assert bleu_of(FOX, LEAP) == pytest.approx(0.330100831, abs=1e-9)
    assert bleu_of(LEAP, FOX) == pytest.approx(0.324667915, abs=1e-9)


@pytest.mark.parametrize(("words", "expected"), [(1, 0.354), (2, 0.595), (3, 0.841), (4, 1.0)])
def test_bleu_of_short_identical_texts_stays_below_one(words: int, expected: float) -> None:
    text = " ".join(FOX.split()[:words])
    assert bleu_of(text, text) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("other", ["", "nothing shared"])
def test_bleu_without_a_shared_word_is_0(other: str) -> None:
    assert bleu_of(FOX, other) == 0.0


def test_rouge_l_has_the_reference_values_with_and_without_stemming() -> None:
    assert rouge_of(BOOKS, BOOK) == pytest.approx(0.285714, abs=1e-6)
    assert rouge_of(BOOKS, BOOK, stemmer=True) == pytest.approx(0.761905, abs=1e-6)


def test_rouge_l_of_a_reference_without_latin_letters_is_undefined_not_0() -> None:
    assert rouge_of("永遠の都", "永遠の都") is None
    assert rouge_of("Rome", "") == 0.0


@pytest.mark.parametrize("metric", [bleu, rouge_l])
def test_a_present_concept_scores_above_a_hidden_and_a_removed_one(metric: ModuleType) -> None:
    present, hidden, removed = (metric.measure(evidence(case)) for case in ("present", "hidden", "removed"))
    assert present.value == present.base == 1.0
    assert present.value > hidden.value
    assert present.value > removed.value
    assert hidden.control.value == removed.control.value == 1.0


@pytest.mark.parametrize("metric", [bleu, rouge_l])
def test_text_after_the_answers_line_does_not_count(metric: ModuleType) -> None:
    rambling = readings("present")
    texts = {name: f"{text}\nQuestion: and what else?" for name, text in rambling.generated.items()}
    measurement = metric.measure(evidence("present", unlearned=readings("present", generated=texts)))
    assert measurement.value == measurement.base


def test_questions_without_an_answer_of_the_base_are_excluded_and_counted() -> None:
    base = readings("present")
    silent = readings("present", generated=dict(base.generated) | {"target/0": "\n", "target/1": " 永遠"})
    measurement = rouge_l.measure(evidence("present", base=silent))
    assert measurement.n == N - 2
    assert measurement.details["left_out"] == 2


def test_a_base_that_answers_nothing_is_not_measured() -> None:
    base = readings("present")
    silent = readings("present", generated=dict.fromkeys(base.generated, ""))
    assert "no answer" in str(bleu.measure(evidence("present", base=silent)).not_measured)


def test_the_number_with_swapped_roles_is_reported_in_the_details() -> None:
    base, other = readings("present"), readings("present")
    texts = evidence(
        "present",
        base=readings("present", generated=dict.fromkeys(base.generated, FOX)),
        unlearned=readings("present", generated=dict.fromkeys(other.generated, LEAP)),
    )
    measurement = bleu.measure(texts)
    assert measurement.value == pytest.approx(0.330100831, abs=1e-9)
    assert measurement.details["reference_rule"]["unlearned"] == pytest.approx(0.324667915, abs=1e-9)
