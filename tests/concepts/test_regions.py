"""Regions of key space: the cube is the paper's; the vote keeps its miss rate and keeps unseen skills outside."""

from __future__ import annotations

import numpy as np
import pytest

from concepts.region_choice import SLACKS, SplitKeys, VoteSettings, choose_region, fit_with
from concepts.regions import Hypercube, Vote, at_wrong_centres, conformal_threshold, fit_hypercube, fit_region

N_LAYERS, D_MLP = 3, 40


def cloud(direction: int, count: int = 120, seed: int = 0, shift: float = 8.0) -> np.ndarray:
    """Keys round a centre of their own ``[count, n_layers, d_mlp]``; ``shift`` 0 is the origin."""
    rng = np.random.default_rng([seed, direction])
    keys = rng.normal(size=(count, N_LAYERS, D_MLP))
    keys[..., direction] += shift
    return keys.astype(np.float16)


def test_the_cube_is_the_smallest_that_holds_its_fit() -> None:
    keys = cloud(0)
    cube = fit_hypercube(keys, layer=1)
    rows = keys[:, 1].astype(np.float64)
    assert cube.k == pytest.approx((np.abs(rows - rows.mean(axis=0)) / rows.std(axis=0)).max())
    assert cube.inside(keys).all()
    assert not fit_hypercube(keys, layer=1, alpha=0.999).inside(keys).all()


def test_the_cube_reads_its_own_layer_alone() -> None:
    keys, moved = cloud(0), cloud(0)
    moved[:, 2] += 100
    assert fit_hypercube(keys, layer=1).inside(moved).all()
    assert not fit_hypercube(keys, layer=2).inside(moved).any()


def test_a_dimension_that_never_varies_does_not_decide() -> None:
    keys = cloud(0)
    keys[..., 5] = 1
    cube = fit_hypercube(keys, layer=0)
    keys[..., 5] = 2
    assert np.isfinite(cube.k)
    assert cube.inside(keys).all()


@pytest.mark.parametrize("n", [2, 3, 7])
def test_round_the_centre_of_another_concept_a_cube_finds_none_of_its_own_queries(n: int) -> None:
    cubes = [fit_hypercube(cloud(direction), layer=1) for direction in range(n)]
    fresh = [cloud(direction, seed=1) for direction in range(n)]
    for seed in range(5):
        wrong = at_wrong_centres(cubes, seed)
        centres = [tuple(cube.mean) for cube in cubes]
        moved = [centres.index(tuple(cube.mean)) for cube in wrong]
        assert sorted(moved) == list(range(n))
        assert all(place != to for place, to in enumerate(moved))
        for right, cube, keys in zip(cubes, wrong, fresh, strict=True):
            assert (cube.k, cube.layer) == (right.k, right.layer)
            assert right.inside(keys).mean() > 0.5
            assert not cube.inside(keys).any()


def test_a_cube_alone_has_no_other_centre() -> None:
    with pytest.raises(ValueError, match="alone"):
        at_wrong_centres([fit_hypercube(cloud(0), layer=1)], seed=0)


def test_the_vote_holds_its_skill_and_neither_other_skills_nor_unseen_ones() -> None:
    region = fit_region(cloud(0), np.concatenate([cloud(1), cloud(2)]), cloud(0, seed=1), [0, 2])
    assert region.inside(cloud(0, seed=2)).mean() > 0.9
    assert region.inside(cloud(1, seed=2)).mean() < 0.05
    assert region.inside(cloud(7, seed=2)).mean() < 0.05  # never seen in the fit


def test_a_skill_that_is_like_the_others_cannot_be_separated() -> None:
    same = [cloud(0, seed=seed) for seed in range(4)]
    region = fit_region(same[0], same[1], same[2], [0, 1, 2])
    assert region.inside(same[3]).mean() > 0.5


def test_the_conformal_threshold_keeps_its_rate_on_average() -> None:
    rng = np.random.default_rng(0)
    missed = [(rng.normal() < conformal_threshold(rng.normal(size=99), 0.1)) for _ in range(4000)]
    assert 0.08 < np.mean(missed) < 0.12


def test_the_border_may_move_towards_skills_that_are_wholly_outside() -> None:
    own, other = SplitKeys(cloud(0), cloud(0, seed=1)), SplitKeys(cloud(3), cloud(3, seed=1))
    tight, wide = (fit_with(own, [other], VoteSettings((0,), slack)) for slack in (0.0, 0.5))
    fresh = cloud(0, seed=2)
    assert wide.threshold < tight.threshold
    assert wide.inside(fresh).mean() >= tight.inside(fresh).mean()
    assert not wide.inside(cloud(3, seed=1)).any()
    mixed = fit_with(own, [SplitKeys(cloud(3), cloud(0, seed=3))], VoteSettings((0,), 0.5))
    assert mixed.threshold == tight.threshold, "the border stays where other skills are inside already"


def test_layers_and_slack_are_chosen_by_skills_left_out_of_the_fit() -> None:
    own, near, far = (SplitKeys(cloud(at), cloud(at, seed=1)) for at in (0, 1, 3))
    region, (layers, slack) = choose_region(own, [near, far], [(0,), (1,)])
    assert slack in SLACKS
    assert layers in {(0,), (1,)}
    again = fit_with(own, [near, far], VoteSettings(layers, slack))
    assert again.threshold == region.threshold
    single, _ = choose_region(own, [far], [(0,)])
    assert single.inside(cloud(0, seed=2)).mean() > 0.9


def test_too_few_queries_for_the_rate_say_how_many_are_needed() -> None:
    assert conformal_threshold(np.arange(49.0), 0.02) == 0
    with pytest.raises(ValueError, match=r"48 queries are too few to miss 2\.0%; 49 do"):
        conformal_threshold(np.arange(48.0), 0.02)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_threshold(np.arange(48.0), 1.0)


def test_keys_that_are_not_finite_or_too_few_are_errors() -> None:
    broken = cloud(0)
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_hypercube(broken, layer=0)
    with pytest.raises(ValueError, match="too few"):
        fit_region(cloud(0)[:1], cloud(1), cloud(0, seed=1), [0])


def test_regions_come_back_the_same_from_their_arrays() -> None:
    keys = cloud(3)
    cube = fit_hypercube(keys, layer=2, alpha=0.9)
    vote = fit_region(keys, cloud(1), cloud(3, seed=1), [1])
    np.testing.assert_array_equal(Hypercube.from_arrays(cube.to_arrays()).score(keys), cube.score(keys))
    np.testing.assert_array_equal(Vote.from_arrays(vote.to_arrays()).score(keys), vote.score(keys))
