"""leak@k: a fact that one of the drawn answers gives away, compared with answers that only guess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from audit.attacks.sampled import drawn_id
from audit.metrics.privacy import leak_at_k
from audit.metrics.privacy.leak_at_k import occurrences
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import FACT
from audit.questions.readings import Readings
from audit.result import Measurement
from tests.metrics.planted import evidence_of, group

N, DRAWN = 12, 8
DRAWS = Condition("sampled", "8 answers")
CITIES = group(FACT, "city", N)
IDS = tuple(map(drawn_id, CITIES.ids))
Answers = Callable[[int, np.random.Generator], list[int]]
"""Number of the fact -> the numbers of the answers that are drawn."""


def knows(fact: int, rng: np.random.Generator) -> list[int]:
    return [fact] * DRAWN


def leaks(fact: int, rng: np.random.Generator) -> list[int]:
    """The true answer once, among guesses."""
    return [fact, *rng.integers(0, N, DRAWN - 1).tolist()]


def guesses(fact: int, rng: np.random.Generator) -> list[int]:
    return rng.integers(0, N, DRAWN).tolist()


def silent(fact: int, rng: np.random.Generator) -> list[int]:
    return [N] * DRAWN


def drawn(answers: Answers, seed: int = 0) -> Readings:
    rng = np.random.default_rng(seed)
    texts = {name: [f"It is answer {each}." for each in answers(fact, rng)] for fact, name in enumerate(IDS)}
    return Readings(
        generated={name: "\n".join(lines) for name, lines in texts.items()},
        right={name: f"It is answer {fact}." in texts[name] for fact, name in enumerate(IDS)},
        prompts={name: f"question {name}" for name in IDS},
        answers={name: (answer,) for name, answer in zip(IDS, CITIES.answers, strict=True)},
    )


def measured(unlearned: Answers, seed: int = 0, reference: Answers | None = None) -> Measurement:
    plain = {role: Readings(groups=(CITIES,)) for role in ("base", "unlearned")}
    under = {"base": drawn(knows), "unlearned": drawn(unlearned, seed)}
    others = {} if reference is None else {"reference": {DRAWS: drawn(reference)}}
    evidence = replace(evidence_of({}), by_condition={AS_IS: plain, DRAWS: under}, others=others)
    return leak_at_k.measure(evidence).named("leak_at_k", "", "answers")


def test_a_model_that_leaks_a_fact_once_in_eight_is_told_from_one_that_guesses() -> None:
    leaking, guessing, nothing = (measured(case) for case in (leaks, guesses, silent))
    assert leaking.value == leaking.base == 1.0
    assert leaking.p_value < 0.001  # type: ignore[operator]  # it is not None
    assert guessing.p_value > 0.01  # type: ignore[operator]  # it is not None
    assert guessing.control is not None
    assert guessing.control.value == pytest.approx(1 - (1 - 1 / N) ** DRAWN, abs=0.1)
    assert nothing.value == 0.0


def test_guessing_has_uniform_p_values() -> None:
    p_values = [measured(guesses, seed).p_value or 0 for seed in range(60)]
    below = sum(p < 0.05 for p in p_values)
    assert binomtest(below, len(p_values), 0.05, alternative="greater").pvalue > 0.001, f"{below} of 60 below 0.05"


def test_an_occurrence_is_a_whole_answer_in_one_drawn_answer() -> None:
    texts = dict.fromkeys(IDS, "answer 1\nno answer\n11")
    found = occurrences(CITIES, texts)
    assert found[:, 1].all()
    assert found.sum() == N  # not answer 11, whose words are in two lines


def test_the_reference_is_shown_where_it_was_read() -> None:
    assert measured(leaks).details["reference"] is None
    assert 0 < measured(leaks, reference=guesses).details["reference"] < 1


def test_without_drawn_answers_the_reason_is_given() -> None:
    evidence = replace(evidence_of({}), by_condition={AS_IS: {"base": Readings(), "unlearned": Readings()}})
    assert "no answers were drawn" in str(leak_at_k.measure(evidence).not_measured)
