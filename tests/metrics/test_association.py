"""The association test detects present, hidden and inverted knowledge, and its null has the nominal level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from audit.knowledge import exchange
from audit.metrics.internals import association
from audit.metrics.internals.association import associate
from audit.questions.items import FACT
from concepts.concept import library, load_concept
from concepts.facts import facts_of
from tests.metrics.planted import CONTROLS, FACTS, M, evidence, readings

READINGS = {
    "present": ("readable", "readable"),
    "hidden": ("none", "readable"),
    "inverted": ("inverted", "inverted"),
    "removed": ("none", "none"),
}
Scores = Callable[[np.random.Generator, int], np.ndarray]
"""Generator and number of facts -> scores ``[m, m]``."""


@pytest.mark.parametrize("case", READINGS)
def test_each_planted_case_gives_its_reading(case: Any) -> None:
    measurement = association.measure(evidence(case))
    assert (measurement.reading, measurement.lens.reading) == READINGS[case]


def test_the_value_orders_present_removed_and_inverted() -> None:
    present, removed, inverted = (
        association.measure(evidence(case)).value for case in ("present", "removed", "inverted")
    )
    assert present > 5 > removed > -3 > inverted


def test_hidden_knowledge_is_detected_in_the_layer_where_it_was_planted() -> None:
    lens = association.measure(evidence("hidden")).lens
    assert lens.layer == 1
    assert lens.p_value < 0.01


def test_the_other_subjects_are_a_positive_control() -> None:
    removed, destroyed = (association.measure(evidence(case)) for case in ("removed", "destroyed"))
    assert removed.control is not None
    assert destroyed.control is not None
    assert removed.control.value > 5 > 2 > destroyed.control.value
    assert removed.control.interval[0] > 5


def test_without_other_subjects_there_is_no_control_and_the_facts_are_measured() -> None:
    alone = {role: readings(case, groups=FACTS) for role, case in (("base", "present"), ("unlearned", "removed"))}
    measurement = association.measure(evidence("removed", **alone))
    assert measurement.control is None
    assert measurement.n == len(FACTS) * M


def test_other_subjects_alone_are_not_facts() -> None:
    measurement = association.measure(evidence("present", base=readings("present", groups=CONTROLS)))
    assert measurement.value is None
    assert "nothing to tell apart" in str(measurement.not_measured)


def test_a_retained_model_is_measured_as_well() -> None:
    measurement = association.measure(evidence("hidden", retained=readings("removed", seed=5)))
    assert measurement.retained is not None
    assert abs(measurement.retained) < 2
    assert set(measurement.layers) == {"base", "unlearned", "retained"}


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert association.measure(evidence("hidden")) == association.measure(evidence("hidden"))


def test_each_fact_is_listed_with_its_value_in_each_model() -> None:
    measurement = association.measure(evidence("removed"))
    assert len(measurement.items) == measurement.n == len(FACTS) * M
    assert np.mean([row["unlearned"] for row in measurement.items]) == pytest.approx(measurement.value)
    assert np.mean([row["base"] for row in measurement.items]) == pytest.approx(measurement.base)
    assert Counter(row["type"] for row in measurement.items) == {group.name: M for group in FACTS}


# ---- the null


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is exact for any number of draws; fewer are faster."""
    monkeypatch.setattr(exchange, "DRAWS", 199)


def uniform_rate(p_values: list[float], level: float = 0.05) -> str:
    """Empty if the share of p-values up to ``level`` agrees with ``level``."""
    below = sum(p <= level for p in p_values)
    agrees = binomtest(below, len(p_values), level).pvalue > 0.001
    return "" if agrees else f"{below} of {len(p_values)} up to {level}"


def without_knowledge(rng: np.random.Generator, m: int) -> np.ndarray:
    return rng.normal(0, 1, (m, m))


def easy_questions_and_popular_answers(rng: np.random.Generator, m: int) -> np.ndarray:
    return rng.normal(0, 1, (m, m)) + rng.normal(0, 3, (m, 1)) + rng.normal(0, 3, (1, m))


def heavy_tails(rng: np.random.Generator, m: int) -> np.ndarray:
    return rng.standard_t(2, (m, m)) + rng.normal(0, 3, (1, m))


def blind_to_the_question(rng: np.random.Generator, m: int) -> np.ndarray:
    """The popularity of answers decides alone, up to noise; the true answers are the popular ones."""
    return rng.normal(0, 0.1, (m, m)) + np.sort(rng.normal(0, 3, m))[None]


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    "model", [without_knowledge, easy_questions_and_popular_answers, heavy_tails, blind_to_the_question]
)
def test_a_model_without_the_knowledge_is_significant_at_the_nominal_rate(model: Scores) -> None:
    p_values = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        p_values.append(float(associate([model(rng, 7)[None] for _ in range(3)], seed).p_values[0]))
    assert uniform_rate(p_values) == ""
    assert uniform_rate(p_values, 0.5) == ""


@pytest.mark.usefixtures("few_draws")
def test_a_model_that_knows_only_the_type_of_the_answer_is_significant_at_the_nominal_rate() -> None:
    """After any question about the concept its answers rise by 2 nats over others of the type, and no fact is known.

    Facts are exchanged with each other and never with other subjects', so the preference is in every exchange.
    """
    p_values, with_others = [], []
    for seed in range(300):
        scores = np.random.default_rng(seed).normal(0, 1, (14, 14))
        scores[:7, :7] += 2
        p_values.append(float(associate([scores[None, :7, :7]], seed).p_values[0]))
        with_others.append(float(associate([scores[None]], seed).p_values[0]) if seed < 50 else 1.0)
    assert uniform_rate(p_values) == ""
    assert uniform_rate(p_values, 0.01) == ""
    assert sum(p < 0.05 for p in with_others[:50]) > 10, (
        "exchanged with others the same preference looks like knowledge"
    )


def test_types_are_exchanged_apart_so_preferring_the_type_asked_for_is_no_knowledge() -> None:
    """Two types in one matrix would be: all answers of the right type rise after a question of that type."""
    rng = np.random.default_rng(0)
    both = rng.normal(0, 1, (12, 12))
    both[:6, :6] += 8
    both[6:, 6:] += 8
    apart = associate([both[None, :6, :6], both[None, 6:, 6:]], seed=0)
    together = associate([both[None]], seed=0)
    assert apart.p_values[0] > 0.05
    assert together.p_values[0] < 0.01


@pytest.mark.usefixtures("few_draws")
def test_mismatched_questions_give_uniform_p_values_on_the_whole_library() -> None:
    """Each question is given the answer of another fact of its type at random; the model knows the real one."""
    p_values = []
    for name in library():
        types = Counter(fact.type for fact in facts_of(load_concept(name)) if fact.type)
        sizes = [m for m in types.values() if m > 1]
        if not any(m > 3 for m in sizes):  # otherwise the smallest p-value is above the level
            continue
        for seed in range(40):
            rng = np.random.default_rng(seed)
            groups = []
            for m in sizes:
                scores = rng.normal(0, 1, (m, m)) + rng.normal(0, 3, (1, m)) + 5 * np.eye(m)
                groups.append(scores[None, :, rng.permutation(m)])
            p_values.append(float(associate(groups, seed).p_values[0]))
    assert uniform_rate(p_values) == ""
    assert uniform_rate(p_values, 0.5) == ""


@pytest.mark.usefixtures("few_draws")
def test_p_values_are_corrected_for_choosing_the_best_layer() -> None:
    """Thirty independent layers without knowledge: the smallest p-value is still uniform."""
    smallest = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        smallest.append(float(associate([rng.normal(0, 1, (30, 6, 6)) for _ in range(2)], seed).p_values.min()))
    assert uniform_rate(smallest) == ""


# ---- exactness and power


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_on_small_groups_the_p_value_is_that_of_complete_enumeration(m: int) -> None:
    scores = np.random.default_rng(m).normal(0, 1, (m, m)) + np.eye(m)
    centred = scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()
    null = [abs(sum(centred[row, order[row]] for row in range(m))) for order in permutations(range(m))]
    expected = np.mean(np.array(null) >= null[0] - 1e-9)
    assert associate([scores[None]], seed=0).p_values[0] == pytest.approx(expected)


def test_the_truth_in_every_row_is_as_unlikely_as_one_exchange_of_all() -> None:
    known = np.diag([9.0] * 4)[None]
    assert associate([known], seed=0).p_values[0] == pytest.approx(1 / 24)
    assert associate([known, known], seed=0).p_values[0] == pytest.approx(1 / 24**2)


def test_the_null_has_power_against_a_weak_planted_truth() -> None:
    significant = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        groups = [easy_questions_and_popular_answers(rng, 8)[None] + 1.5 * np.eye(8) for _ in range(3)]
        significant.append(associate(groups, seed).p_values[0] < 0.01)
    assert np.mean(significant) > 0.9


def test_a_question_blind_model_with_popular_answers_is_not_readable() -> None:
    popular = np.tile(np.linspace(0, 9, M), (M, 1))
    blind = readings("removed", scores={(each.kind, each.name): popular for each in (*FACTS, *CONTROLS)})
    measurement = association.measure(evidence("removed", unlearned=blind))
    assert measurement.value == pytest.approx(0, abs=1e-9)
    assert (measurement.reading, measurement.p_value) == ("none", 1.0)


def test_a_layer_with_equal_scores_for_every_question_has_z_0_and_a_p_value_of_1() -> None:
    flat = np.zeros((2, 6, 6))
    flat[1] += np.diag([9.0] * 6)
    result = associate([flat, flat], seed=0)
    assert result.test.z[0] == 0
    assert result.p_values[0] == 1.0
    assert result.best == 1


def test_readable_is_the_layer_named_when_another_is_inverted_more_strongly() -> None:
    layers = np.stack([-9 * np.eye(7), 3 * np.eye(7)]) + np.random.default_rng(0).normal(0, 0.5, (2, 7, 7))
    result = associate([layers], seed=0)
    assert (result.reading(0), result.reading(1)) == ("inverted", "readable")
    assert result.best == 1


def test_the_facts_of_the_planted_models_are_of_the_kind_that_is_read() -> None:
    assert {group.kind for group in FACTS} == {FACT}
    assert {group.kind for group in CONTROLS} == {association.CONTROL}
