"""Key-space metrics order planted cases; see ``tests/concepts/test_keyspace.py`` for the mathematics."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from audit.metrics.contract import Evidence
from audit.metrics.keys import (
    carrying_neurons,
    centroid_shift,
    key_space_clusters,
    key_space_overlap,
    key_space_separability,
)
from tests.metrics.planted import N_LAYERS, N, evidence, readings


def test_separability_orders_present_hidden_and_removed() -> None:
    present, hidden, removed = (
        key_space_separability.measure(evidence(case)) for case in ("present", "hidden", "removed")
    )
    assert present.value == present.base
    assert present.value >= hidden.value > 0.9 > removed.value
    assert hidden.p_value < 0.01 < removed.p_value
    assert set(removed.layers) == {"base", "unlearned"}
    assert len(removed.layers["base"]) == N_LAYERS


def test_the_permuted_control_is_near_one_half() -> None:
    measurement = key_space_separability.measure(evidence("present"))
    assert measurement.control is not None
    assert measurement.control.value == pytest.approx(0.5, abs=0.05)


def test_shift_orders_present_hidden_and_removed() -> None:
    present, hidden, removed = (centroid_shift.measure(evidence(case)) for case in ("present", "hidden", "removed"))
    assert present.value == 0.0
    assert 0 < hidden.value < removed.value
    assert removed.control.value == 0.0


def test_a_retained_model_is_measured_as_well() -> None:
    with_retained = evidence("hidden", retained=readings("removed"))
    shift = centroid_shift.measure(with_retained)
    assert shift.retained > shift.value
    assert key_space_separability.measure(with_retained).retained < 0.9


def test_overlap_orders_present_hidden_and_removed_on_held_out_questions() -> None:
    present, hidden, removed = (key_space_overlap.measure(evidence(case)) for case in ("present", "hidden", "removed"))
    assert present.value == present.base
    assert present.n == N // 2
    assert present.value >= hidden.value > removed.value
    assert removed.details["base_in_the_unlearned_region"] < present.details["base_in_the_unlearned_region"]
    assert set(removed.layers) == {"base", "unlearned", "base in unlearned's", "unrelated"}
    low, high = removed.interval
    assert low <= removed.value <= high


def test_too_few_questions_are_not_measured() -> None:
    one = {"target": np.zeros((1, 2, 4), dtype=np.float32), "unrelated": np.zeros((0, 0, 0), dtype=np.float32)}
    few = evidence("present", base=readings("present", keys=one), unlearned=readings("present", keys=one))
    assert "4 of each are needed" in str(key_space_separability.measure(few).not_measured)
    assert "2 with different key vectors" in str(centroid_shift.measure(few).not_measured)


def test_clusters_order_present_hidden_and_removed() -> None:
    present, hidden, removed = (key_space_clusters.measure(evidence(case)) for case in ("present", "hidden", "removed"))
    assert present.value == present.base
    assert present.value >= hidden.value > 2 > removed.value
    assert hidden.interval[0] > removed.interval[1]
    assert abs(present.control.value) < present.value / 2


def test_every_model_is_projected_into_the_same_plane_on_held_out_questions() -> None:
    measurement = key_space_clusters.measure(evidence("hidden", retained=readings("removed")))
    rows = measurement.items
    assert {row["model"] for row in rows} == {"base", "unlearned", "retained"}
    assert {row["set"] for row in rows} == {"Italy", "unrelated"}
    assert len(rows) == 3 * measurement.n == 3 * (N - measurement.details["fitted_on"]["target"]) * 2
    same = key_space_clusters.measure(evidence("present")).items
    points = [[(row["x"], row["y"]) for row in same if row["model"] == role] for role in ("base", "unlearned")]
    assert points[0] == points[1]


def test_carriers_order_present_hidden_and_removed() -> None:
    present, hidden, removed = (carrying_neurons.measure(planted(case)) for case in ("present", "hidden", "removed"))
    assert present.value == present.base > 0.5
    assert present.value >= hidden.value > 0.5 > removed.value
    assert removed.value < 0.2
    assert removed.control.value == pytest.approx(0.01 / 1.99)


def test_the_spread_of_carriers_over_random_halves_is_not_called_an_interval() -> None:
    carried = carrying_neurons.measure(planted("hidden"))
    assert carried.interval is carried.base_interval is None
    low, high = carried.details["central 95 % over 20 random halves"]["unlearned"]
    assert low < carried.value < high


def planted(case: str) -> Evidence:
    """Layers of 1000 neurons in which the concept raises ten; after removal it raises ten others."""
    rng = np.random.default_rng(3)
    keys = {kind: rng.normal(0, 1, (20, N_LAYERS, 1000)) for kind in ("target", "unrelated")}
    raised = {kind: value.copy() for kind, value in keys.items()}
    keys["target"][..., :10] += 4.0
    raised["target"][..., slice(500, 510) if case == "removed" else slice(0, 10)] += 3.0 if case == "hidden" else 4.0
    return evidence("present", base=readings("present", keys=keys), unlearned=readings("present", keys=raised))


@pytest.mark.parametrize("metric", [carrying_neurons, key_space_clusters])
def test_too_few_questions_for_halves_are_not_measured(metric: ModuleType) -> None:
    one = {kind: np.zeros((7, 2, 4), dtype=np.float32) for kind in ("target", "unrelated")}
    few = evidence("present", base=readings("present", keys=one), unlearned=readings("present", keys=one))
    assert "8 of each are needed" in str(metric.measure(few).not_measured)
