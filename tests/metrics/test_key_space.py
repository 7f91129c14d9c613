"""Key-space metrics order planted cases; see ``tests/test_keyspace.py`` for the mathematics."""

from __future__ import annotations

import numpy as np
import pytest

from audit.metrics import centroid_shift, key_space_separability
from tests.metrics.planted import CONCEPT, N_LAYERS, readings, subjects


def test_separability_orders_present_hidden_and_removed() -> None:
    present, hidden, removed = (
        key_space_separability.measure(subjects(case), CONCEPT) for case in ("present", "hidden", "removed")
    )
    assert present.value == present.base
    assert present.value >= hidden.value > 0.9 > removed.value
    assert hidden.p_value < 0.01 < removed.p_value
    assert set(removed.layers) == {"base", "unlearned"}
    assert len(removed.layers["base"]) == N_LAYERS


def test_the_permuted_control_is_near_one_half() -> None:
    found = key_space_separability.measure(subjects("present"), CONCEPT)
    assert found.control is not None
    assert found.control.value == pytest.approx(0.5, abs=0.05)


def test_shift_orders_present_hidden_and_removed() -> None:
    present, hidden, removed = (
        centroid_shift.measure(subjects(case), CONCEPT) for case in ("present", "hidden", "removed")
    )
    assert present.value == 0.0
    assert 0 < hidden.value < removed.value
    assert removed.control.value == 0.0


def test_a_retained_model_is_measured_beside() -> None:
    found = subjects("hidden", retained=readings("removed"))
    assert centroid_shift.measure(found, CONCEPT).retained > centroid_shift.measure(found, CONCEPT).value
    assert key_space_separability.measure(found, CONCEPT).retained < 0.9


def test_too_few_questions_are_not_measured() -> None:
    one = {"target": np.zeros((1, 2, 4), dtype=np.float32), "unrelated": np.zeros((0, 0, 0), dtype=np.float32)}
    few = subjects("present", base=readings("present", keys=one), unlearned=readings("present", keys=one))
    assert "4 of each are needed" in str(key_space_separability.measure(few, CONCEPT).not_measured)
    assert "2 with different key vectors" in str(centroid_shift.measure(few, CONCEPT).not_measured)
