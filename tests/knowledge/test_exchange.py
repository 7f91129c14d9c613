"""The exchange test is exact: complete on small cells, one draw for all conditions, induced where facts are missing."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from audit.knowledge import exchange as exchange_module
from audit.knowledge.exchange import Block, Draws, centred, exchange, omnibus, ranks


def block(scores: np.ndarray, facts: list[int] | None = None) -> Block:
    scores = scores if scores.ndim == 3 else scores[None]
    return Block(np.arange(scores.shape[-1]) if facts is None else np.array(facts), scores)


def noise(seed: int, m: int, places: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (places, m, m))


# ---- draws


def test_few_exchanges_are_all_enumerated_once_within_their_cells() -> None:
    draws = Draws.of(np.array([0, 0, 0, 1, 1]), seed=0)
    assert draws.complete
    exchanged = {tuple(each) for each in draws.exchanged(np.arange(5))}
    assert exchanged == {(*a, *b) for a in permutations(range(3)) for b in permutations((3, 4))}
    assert len(draws.keys) == len(exchanged) == 12


def test_many_exchanges_are_drawn_at_random_and_stay_within_their_cells() -> None:
    cell = np.array([0] * 6 + [1] * 6)
    draws = Draws.of(cell, seed=0)
    exchanged = draws.exchanged(np.arange(12))
    assert not draws.complete
    assert exchanged.shape == (exchange_module.DRAWS, 12)
    assert (np.sort(exchanged, axis=1) == np.arange(12)).all()
    assert (cell[exchanged] == cell).all()
    positions = [(exchanged[:, 0] == place).mean() for place in range(6)]
    assert positions == pytest.approx([1 / 6] * 6, abs=0.02)


def test_the_same_seed_draws_the_same_exchanges_and_another_seed_draws_others() -> None:
    cell = np.zeros(9, dtype=int)
    first, again, other = (Draws.of(cell, seed).keys for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_where_facts_are_missing_the_others_are_exchanged_in_the_order_of_the_same_keys() -> None:
    draws = Draws.of(np.zeros(4, dtype=int), seed=0)
    facts = np.array([0, 2, 3])
    induced = draws.exchanged(facts)
    for keys, places in zip(draws.keys, induced, strict=True):
        assert list(keys[facts[places]]) == sorted(keys[facts])
    counts = {order: int((induced == order).all(axis=1).sum()) for order in permutations(range(3))}
    assert set(counts.values()) == {4}, "every order of the remaining facts is as likely as any other"


def test_the_exchange_that_leaves_all_facts_in_place_leaves_the_remaining_ones_in_place() -> None:
    draws = Draws.of(np.array([0, 0, 0, 1, 1]), seed=0)
    (identity,) = np.flatnonzero((draws.exchanged(np.arange(5)) == np.arange(5)).all(axis=1))
    for facts in ([0, 2, 4], [1, 2], [3, 4]):
        assert list(draws.exchanged(np.array(facts))[identity]) == list(range(len(facts)))


def test_the_order_in_which_a_condition_lists_its_facts_does_not_matter() -> None:
    scores, order = noise(0, 6)[0], np.array([3, 0, 5, 1, 4, 2])
    draws = Draws.of(np.array([0, 0, 0, 1, 1, 1]), seed=0)
    plain = exchange([block(scores)], draws)
    shuffled = exchange([block(scores[np.ix_(order, order)], list(order))], draws)
    assert shuffled.value == pytest.approx(plain.value)
    assert np.sort(shuffled.null[0]) == pytest.approx(np.sort(plain.null[0]))


# ---- the test


def test_the_null_is_the_statistic_of_every_assignment_and_its_mean_is_0() -> None:
    scores = noise(0, 4)
    test = exchange([block(scores)], Draws.of(np.zeros(4, dtype=int), seed=0))
    matrix = centred(scores[0])
    expected = [np.mean([matrix[row, order[row]] for row in range(4)]) for order in permutations(range(4))]
    assert sorted(test.null[0]) == pytest.approx(sorted(expected))
    assert test.null[0].mean() == pytest.approx(0, abs=1e-12)
    assert test.value[0] == pytest.approx(np.trace(matrix) / 4)
    assert test.z[0] == pytest.approx(test.value[0] / np.std(expected))


def test_easy_questions_and_popular_answers_change_nothing() -> None:
    rng, draws = np.random.default_rng(0), Draws.of(np.zeros(6, dtype=int), seed=0)
    scores = rng.normal(0, 1, (6, 6))
    shifted = scores + rng.normal(0, 9, (6, 1)) + rng.normal(0, 9, (1, 6))
    plain, moved = exchange([block(scores)], draws), exchange([block(shifted)], draws)
    assert moved.value == pytest.approx(plain.value)
    assert moved.null == pytest.approx(plain.null)
    assert centred(shifted).mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert centred(shifted).mean(axis=1) == pytest.approx(0, abs=1e-12)


def test_without_centring_a_popular_answer_stays_but_moves_every_exchange_alike() -> None:
    popular = np.zeros((5, 5))
    popular[:, 3] = 10
    test = exchange([block(popular)], Draws.of(np.zeros(5, dtype=int), seed=0), centre=False)
    assert test.value[0] == 2
    assert test.null == pytest.approx(2)


def test_p_values_are_uniform_whatever_is_chosen_among_conditions_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "DRAWS", 199)  # exact for any number
    p_values = []
    for seed in range(300):
        draws = Draws.of(np.repeat([0, 1], 6), seed)
        tests = {}
        shared = noise(seed, 12, 4)
        for name in range(3):
            scores = shared + 0.5 * noise(1000 + 10 * seed + name, 12, 4)  # conditions resemble each other
            tests[str(name)] = exchange([block(scores[:, :6, :6]), block(scores[:, 6:, 6:], list(range(6, 12)))], draws)
        p_values.append(omnibus(tests, draws).p_value)
    assert kstest(p_values, "uniform").pvalue > 0.001
    assert binomtest(sum(p <= 0.05 for p in p_values), 300, 0.05).pvalue > 0.001


def test_a_draw_is_the_same_for_all_conditions() -> None:
    """A copy of a condition adds nothing to choose from, so it costs nothing; another draw for it would."""
    draws = Draws.of(np.zeros(9, dtype=int), seed=0)
    once = exchange([block(noise(0, 9) + 0.7 * np.eye(9))], draws)
    one, two = omnibus({"as is": once}, draws), omnibus({"as is": once, "again": once}, draws)
    assert one.p_value == two.p_value
    other = exchange([block(noise(1, 9))], draws)
    assert omnibus({"as is": once, "other": other}, draws).corrected["as is"][0] > one.p_value


def test_the_condition_and_place_with_the_knowledge_are_named_with_the_sign() -> None:
    draws = Draws.of(np.zeros(8, dtype=int), seed=0)
    tests = {
        "as is": exchange([block(noise(0, 8, 3))], draws),
        "relearned": exchange([block(noise(1, 8, 3) + np.array([0, 5, 0])[:, None, None] * np.eye(8))], draws),
    }
    result = omnibus(tests, draws)
    assert result.best == ("relearned", 1)
    assert result.z > 0
    assert result.p_value == pytest.approx(1 / (1 + exchange_module.DRAWS))
    assert min(result.corrected["as is"]) > 0.05
    inverted = omnibus({"as is": exchange([block(noise(0, 8) - 5 * np.eye(8))], draws)}, draws)
    assert inverted.z < 0
    assert inverted.p_value < 0.001


def test_the_observed_assignment_counts_as_one_of_the_random_draws() -> None:
    draws = Draws.of(np.zeros(9, dtype=int), seed=0)
    assert draws.p_value(0) == 1 / (1 + exchange_module.DRAWS)
    assert draws.p_value(exchange_module.DRAWS) == 1
    complete = Draws.of(np.zeros(3, dtype=int), seed=0)
    assert complete.p_value(1) == 1 / 6, "among all exchanges the observed one is there already"


def test_two_folds_are_read_as_one_condition_within_their_cells() -> None:
    """What an attack does to one half but not to the other is no knowledge."""
    cell = np.repeat([0, 1], 4)
    draws = Draws.of(cell, seed=0)
    first, second = noise(0, 4), 50 + 3 * noise(1, 4)
    test = exchange([block(first), block(second, [4, 5, 6, 7])], draws)
    assert test.n == 8
    assert test.value[0] == pytest.approx((np.trace(centred(first[0])) + np.trace(centred(second[0]))) / 8)


def test_a_single_fact_in_a_cell_has_no_other_answer_and_no_z() -> None:
    draws = Draws.of(np.array([0]), seed=0)
    test = exchange([block(np.array([[3.0]]))], draws)
    assert (test.value[0], test.z[0]) == (0, 0)
    assert omnibus({"as is": test}, draws).p_value == 1


# ---- ranks


def test_the_best_answer_has_rank_0_and_the_last_rank_1() -> None:
    scores = np.array([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9]])
    assert list(np.diagonal(ranks(scores))) == [0] * 4
    assert list(np.diagonal(ranks(-scores))) == [1] * 4


def test_equal_scores_share_a_rank_and_a_flat_row_has_the_middle() -> None:
    assert ranks(np.zeros((5, 5))) == pytest.approx(0.5)
    scores = np.array([[2.0, 2, 0], [2, 2, 0], [0, 0, 2]])
    assert ranks(scores)[0] == pytest.approx([0.25, 0.25, 1])


def test_an_answer_that_two_facts_share_ties_with_itself() -> None:
    """The first two facts have the same answer, whose columns are then equal."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (6, 6))
    scores[:, 1] = scores[:, 0]
    both = ranks(scores)
    assert (both[:, 0] == both[:, 1]).all()
    scores[0, :2] += 20
    assert ranks(scores)[0, 0] == ranks(scores)[0, 1] == pytest.approx(0.5 / 5)


def test_the_rank_of_an_unknown_truth_is_uniform() -> None:
    values = np.concatenate([np.diagonal(ranks(noise(seed, 11)[0])) for seed in range(400)])
    counts = np.bincount(np.round(values * 10).astype(int), minlength=11)
    assert counts == pytest.approx([400] * 11, abs=90)


def test_ranks_of_several_places_are_those_of_each() -> None:
    scores = noise(0, 5, 3)
    assert ranks(scores) == pytest.approx(np.stack([ranks(each) for each in scores]))
