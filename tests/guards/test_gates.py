"""O3's gate: the likeness is even about the centre, the weight grows with it, distances are those of the formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from audit.guards.gates import Cloud, Detector, TwoNormals, fit_detector, gate_weight

NORMALS = st.builds(
    lambda mean, std: TwoNormals(np.array(mean), np.array(std)),
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    st.tuples(st.floats(0.01, 20), st.floats(0.01, 20)),
)
DISTANCES = np.linspace(0, 200, 2001)


@given(NORMALS)
def test_the_likeness_is_even_about_the_centre_and_falls_from_1_to_0(normals: TwoNormals) -> None:
    right, left = (normals.likeness(normals.centre + sign * DISTANCES) for sign in (1, -1))
    np.testing.assert_allclose(right, left, atol=1e-9)
    assert right[0] == 1
    assert (np.diff(right) <= 1e-12).all()
    assert right[-1] < 0.6


@given(NORMALS, st.sampled_from([0.0, 0.3, 0.9]))
def test_the_weight_never_grows_with_the_distance_from_the_centre(normals: TwoNormals, least: float) -> None:
    for sign in (1, -1):
        weight = gate_weight(normals.likeness(normals.centre + sign * DISTANCES), least)
        assert (np.diff(weight) <= 1e-12).all()
        assert ((weight == 0) | (weight >= least)).all()
        assert weight[0] == pytest.approx(expit(8))


def test_the_likeness_of_one_normal_is_the_share_of_it_that_is_farther_away() -> None:
    normals = TwoNormals(np.array([3.0, 3.0]), np.array([2.0, 2.0]))
    assert normals.likeness(np.array([5.0, -1.0])) == pytest.approx([2 * norm.sf(1), 2 * norm.sf(2)])


def test_the_weight_is_the_papers() -> None:
    likeness = np.array([0.0, 0.1, 0.2, 0.5, 1.0])
    assert gate_weight(likeness) == pytest.approx(expit(10 * likeness - 2))
    assert gate_weight(likeness, least=0.3).tolist() == [0, 0, 0.5, *gate_weight(likeness)[3:]]


def test_distances_are_those_of_the_shrunk_covariance_and_of_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 9))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows = np.concatenate([points[:1], rng.normal(size=(3, 9))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    covariance = np.cov(points.T, bias=True)
    shrunk = 0.6 * covariance + 0.4 * covariance.trace() / 9 * np.eye(9)
    away = rows - points.mean(axis=0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(shrunk), away))
    mahalanobis, cosine = Cloud.of(points, shrinkage=0.4).distances(rows).T
    np.testing.assert_allclose(mahalanobis, expected)
    np.testing.assert_allclose(cosine, 1 - (rows @ points.T).max(axis=1))
    assert cosine[0] == pytest.approx(0)


@pytest.fixture
def worlds() -> dict[str, np.ndarray]:
    """Keys of a request's prompts and of others: the same but for what one direction of each layer says."""
    rng = np.random.default_rng(0)
    common, topic = rng.normal(size=(2, 2, 40))
    sizes = {"fitted": 24, "further": 12, "held": 40, "others": 40, "elsewhere": 40}
    keys = {name: 5 * common + 0.5 * rng.normal(size=(n, 2, 40)) for name, n in sizes.items()}
    return {name: rows + topic * (name in ("fitted", "further", "held")) for name, rows in keys.items()}


def fitted(worlds: dict[str, np.ndarray], group: np.ndarray | None = None) -> Detector:
    group = np.arange(24) if group is None else group
    return fit_detector(worlds["fitted"], group, worlds["further"], worlds["others"])


def test_most_further_prompts_of_the_request_open_the_gate_and_others_do_not(worlds: dict[str, np.ndarray]) -> None:
    detector = fitted(worlds)
    held, elsewhere = (gate_weight(detector.likeness(worlds[name]), 0.3) for name in ("held", "elsewhere"))
    assert (held > 0).mean() >= 0.75
    assert (elsewhere > 0).mean() == 0


def test_the_prompts_that_were_fitted_open_the_gate_most(worlds: dict[str, np.ndarray]) -> None:
    detector = fitted(worlds)
    own, held = (gate_weight(detector.likeness(worlds[name])) for name in ("fitted", "held"))
    assert detector.score(worlds["fitted"]).max() < detector.score(worlds["held"]).min()
    assert own.min() == held.max() == pytest.approx(gate_weight(np.ones(1))[0])


def test_wordings_of_one_query_are_not_scored_by_each_other(worlds: dict[str, np.ndarray]) -> None:
    """Twelve queries in two almost equal wordings: scored by each other, they would seem nearer than further ones."""
    twins = worlds["fitted"][:12].repeat(2, axis=0) + 1e-3 * np.random.default_rng(1).normal(size=(24, 2, 40))
    apart = fitted(worlds | {"fitted": twins}, np.arange(12).repeat(2))
    together = fitted(worlds | {"fitted": twins}, np.arange(24))
    assert together.typical[:, 1].max() < 0.1 * apart.typical[:, 1].min()
    assert abs(apart.score_mean[0] - apart.score_mean[1]) < 3 * apart.score_std.max()


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_detector_is_restored_from_its_arrays_and_its_shapes_are_checked(worlds: dict[str, np.ndarray]) -> None:
    detector = fitted(worlds)
    restored = Detector.from_arrays(detector.to_arrays())
    np.testing.assert_array_equal(restored.likeness(worlds["held"]), detector.likeness(worlds["held"]))
    assert detector.shaped(2, 40)
    assert not detector.shaped(2, 41)
    assert not replace(detector, typical=detector.typical[:1]).shaped(2, 40)


def test_prompts_that_are_all_alike_have_finite_scores() -> None:
    same = np.ones((6, 1, 4))
    detector = fit_detector(same, np.arange(6), same[:2], np.random.default_rng(0).normal(size=(5, 1, 4)))
    assert np.isfinite(detector.score(same)).all()
    assert np.isfinite(detector.likeness(np.zeros((1, 1, 4)))).all()
