"""The association test detects present, hidden and inverted knowledge, and its null has the nominal level."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from audit.metrics.internals import association
from audit.metrics.internals.association import associate, centred, draw
from tests.metrics.planted import evidence, readings

READINGS = {
    "present": ("readable", "readable"),
    "hidden": ("none", "readable"),
    "inverted": ("inverted", "inverted"),
    "removed": ("none", "none"),
}


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
    assert removed.details["control"]["unlearned"]["reading"] == "readable"


def test_a_retained_model_is_measured_as_well() -> None:
    measurement = association.measure(evidence("hidden", retained=readings("removed", seed=5)))
    assert measurement.retained is not None
    assert abs(measurement.retained) < 2
    assert set(measurement.layers) == {"base", "unlearned", "retained"}


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert association.measure(evidence("hidden")) == association.measure(evidence("hidden"))


def test_without_groups_it_is_not_measured_and_gives_the_reason() -> None:
    none = readings("present", groups=(), skipped={"group capital": "too few rows"})
    measurement = association.measure(evidence("present", base=none))
    assert "group capital: too few rows" in str(measurement.not_measured)


def planted(rng: np.random.Generator, others_known: bool, heavy: bool) -> list[np.ndarray]:
    """Three groups of nine in which rows 0 and 1 are unknown; the other rows are known if ``others_known``."""
    groups = []
    for _ in range(3):
        noise = rng.standard_t(2, (1, 9, 9)) if heavy else rng.normal(0, 1, (1, 9, 9))
        scores = noise + rng.normal(0, 3, (1, 9, 1)) + rng.normal(0, 3, (1, 1, 9))
        if others_known:
            scores[0, range(2, 9), range(2, 9)] += 8
        groups.append(scores)
    return groups


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize("others_known", [False, True], ids=["all unknown", "others known"])
def test_a_model_without_the_knowledge_is_significant_at_the_nominal_rate(others_known: bool, heavy: bool) -> None:
    p_values = [
        associate(planted(np.random.default_rng(seed), others_known, heavy), [(0, 1)] * 3, seed).p_values[0]
        for seed in range(400)
    ]
    below = sum(p < 0.05 for p in p_values)
    assert binomtest(below, 400, 0.05).pvalue > 0.001, f"{below} of 400 below 0.05"


def test_p_values_are_corrected_for_choosing_the_best_layer() -> None:
    """Thirty independent layers without knowledge: the smallest p-value is still uniform."""
    smallest = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        result = associate([rng.normal(0, 1, (30, 9, 9)) for _ in range(3)], [(0, 1)] * 3, seed)
        smallest.append(result.p_values.min())
    below = sum(p < 0.05 for p in smallest)
    assert binomtest(below, 200, 0.05).pvalue > 0.001, f"{below} of 200 below 0.05"


def test_the_null_has_power_against_a_weak_planted_truth() -> None:
    significant = []
    for seed in range(50):
        groups = planted(np.random.default_rng(seed), others_known=True, heavy=False)
        for group in groups:
            group[0, [0, 1], [0, 1]] += 3.0
        significant.append(associate(groups, [(0, 1)] * 3, seed).p_values[0] < 0.01)
    assert np.mean(significant) > 0.9


def test_centring_ignores_easy_questions_and_popular_answers() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (7, 7))
    shifted = scores + rng.normal(0, 9, (7, 1))
    assert centred(shifted) == pytest.approx(centred(scores), abs=1e-9)
    assert centred(scores).mean(axis=1) == pytest.approx(0, abs=1e-12)
    popular = np.zeros((7, 7))
    popular[:, 3] = 5
    assert centred(popular) == pytest.approx(0, abs=1e-12)


def test_knowing_every_other_row_does_not_raise_this_row() -> None:
    scores = np.diag([0.0, *[9.0] * 6])
    assert centred(scores)[0] == pytest.approx(0, abs=1e-12)


def test_few_assignments_are_enumerated_and_include_the_observed_one() -> None:
    drawn, complete = draw([(4, 2), (5, 1)], seed=0)
    assert complete
    assert len(drawn[0]) == 12 * 5
    assert {tuple(row) for row in drawn[0]} == set(permutations(range(4), 2))
    scores = np.diag([9.0] * 5)[None]
    assert associate([scores], [(0,)], seed=0).p_values[0] == pytest.approx(1 / 5)


def test_many_assignments_are_drawn_without_repeating_a_candidate_in_a_group() -> None:
    drawn, complete = draw([(10, 6)], seed=0)
    assert not complete
    assert all(len(set(row)) == 6 for row in drawn[0])


def test_a_layer_with_equal_scores_for_every_question_has_no_z_and_a_p_value_of_1() -> None:
    flat = np.zeros((2, 6, 6))
    flat[1] += np.diag([9.0] * 6)
    result = associate([flat, flat], [(0, 1), (0, 1)], seed=0)
    assert np.isnan(result.z[0])
    assert result.p_values[0] == 1.0
    assert result.best == 1
