"""The shares that are computed from patched runs, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audit.patching.edit_class import FAR, NEAR, EditNumbers, edit_class
from audit.patching.items import patch_items
from audit.patching.lens import BUDGETS, LensReadings, layers_read
from audit.patching.readings import DROP, Recovery, weighted_share
from audit.patching.restoration import windows
from audit.patching.runs import Scores
from audit.questions.items import FACT, FactGroup, Item, ItemSet


def test_the_unlearning_depth_score_of_one_fact_by_hand() -> None:
    D1 = np.array([[0.04], [0.5], [1.5]])  # the first layer does not encode the fact
    D2 = np.array([[9.0], [0.25], [3.0]])
    assert weighted_share(D2, D1) == pytest.approx((0.5 * 0.5 + 1.5 * 1.0) / 2.0)


def test_a_share_is_limited_and_undefined_where_no_layer_encodes_the_fact() -> None:
    D1 = np.array([[1.0, DROP, 1.0]])
    assert weighted_share(np.array([[-2.0, 5.0, 2.0]]), D1) == pytest.approx([0.0, np.nan, 1.0], nan_ok=True)
    assert np.isnan(weighted_share(D1, D1, np.array([[False, True, False]]))).all()


def scores(mse: float, kl: float, logprob: float) -> Scores:
    return Scores(np.array([logprob, logprob]), np.zeros(2), np.array([mse, mse]), np.array([kl, kl]))


def test_recovery_by_hand() -> None:
    recovery = Recovery(patched=scores(1.0, 0.5, -2.0), plain=scores(4.0, 2.0, -5.0), base=scores(0.0, 0.0, -1.0))
    assert (recovery.krs, recovery.kl, recovery.logprob) == (0.75, 0.75, 0.75)


def test_recovery_of_what_was_never_lost_is_undefined() -> None:
    same = scores(0.0, 0.0, -1.0)
    recovery = Recovery(same, same, same)
    assert (recovery.krs, recovery.kl, recovery.logprob) == (None, None, None)


@pytest.mark.parametrize("n_layers", [1, 2, 6, 12, 30, 32])
def test_windows_cover_every_layer_once(n_layers: int) -> None:
    covered = [layer for first, last in windows(n_layers) for layer in range(first, last + 1)]
    assert covered == list(range(n_layers))
    if n_layers >= 30:
        assert windows(n_layers)[0] == (0, 4)


PLAIN = EditNumbers(True, 1.0, 0.1, 0.1, 0.1, 1.0, 0.5, {"embedding": 0.0, "value vectors of layer 1": 0.3}, 0.7)
"""States like another subject's, in which the facts are not written."""


@pytest.mark.parametrize(
    ("expected", "numbers"),
    [
        ("no change", replace(PLAIN, changed=False, carried=1.0)),
        ("noise", replace(PLAIN, shift=FAR + 0.1, readout=0.5, written=1.0)),
        ("edit", replace(PLAIN, shift=FAR + 0.1, restored={"readout": 1.0})),
        ("bypass", replace(PLAIN, written=0.6, all_restored=1.0)),
        ("edit", replace(PLAIN, carried=1.0, restored={"embedding": 0.0, "layer 1": 0.6, "readout": None})),
        ("edit", replace(PLAIN, all_restored=1.0)),
        ("bypass", replace(PLAIN, written=None, carried=0.95)),
        ("absence", PLAIN),
        ("absence", replace(PLAIN, written=None, carried=None, restored={"embedding": None}, all_restored=None)),
        ("mixed", replace(PLAIN, written=0.4)),
        ("mixed", replace(PLAIN, moved=NEAR + 0.1)),
        ("mixed", replace(PLAIN, moved=None)),
        ("mixed", replace(PLAIN, damage=4.0)),
    ],
)
def test_each_class_has_its_numbers(expected: str, numbers: EditNumbers) -> None:
    assert edit_class(numbers).name == expected


def test_an_edit_of_embedding_rows_is_named() -> None:
    assert "embedding" in edit_class(replace(PLAIN, restored={"embedding": 1.0, "readout": 0.0})).sentence


def test_an_answer_is_found_if_any_layer_that_is_read_has_it_among_its_first_tokens() -> None:
    rank = np.array([[9, 9], [3, 9], [9, 64]])
    wrong = (np.array([[0], [9], [9]]), np.empty((3, 0), dtype=int))
    lens = LensReadings(np.zeros((3, 2)), rank, wrong, np.ones((7, 2), dtype=int), 100)
    four = BUDGETS.index(4)
    assert lens.found(four).tolist() == [1.0, 0.0]
    assert lens.found(BUDGETS.index(2)).tolist() == [0.0, 0.0]
    assert lens.found_wrong(four) == pytest.approx([1.0, np.nan], nan_ok=True)


def test_ten_layers_are_read_and_the_last_is_one_of_them() -> None:
    assert layers_read(3) == [0, 1, 2]
    assert len(layers_read(30)) == 10
    assert layers_read(30)[-1] == 29


def group(kind: str = FACT) -> FactGroup:
    """Four questions; the first two are about one subject, the third has the first one's answer."""
    answers = ((5, 6), (7,), (5, 6), (5, 8))
    return FactGroup(
        name="city",
        kind=kind,
        ids=tuple(f"{kind}/{row}" for row in range(4)),
        subjects=("ann", "ann", "bea", "cleo"),
        answers=("a", "b", "a", "c"),
        prompt_ids=((1,), (2,), (3,), (4,)),
        beginnings=((), (5,)),
        paths=(((0, 5), (1, 6)), ((0, 7),), ((0, 5), (1, 6)), ((0, 5), (1, 8))),
        answer_ids=answers,
    )


def test_the_other_question_has_another_subject_and_another_answer() -> None:
    chosen = patch_items(ItemSet(groups=(group(),)), {f"fact/{row}": True for row in range(4)}, 16, seed=0)
    assert [item.other_ids for item in chosen] == [(4,), (3,), (4,), (1,)]
    assert [item.apart for item in chosen] == [1, 0, 1, 1]
    assert [item.wrong_ids for item in chosen] == [(8,), (5,), (8,), (6,)]


def test_facts_that_the_base_does_not_say_are_left_out() -> None:
    chosen = patch_items(ItemSet(groups=(group(),)), {"fact/1": True, "fact/2": False}, 16, seed=0)
    assert [item.id for item in chosen] == ["fact/1"]


def test_controls_are_other_subjects_or_else_unrelated_questions() -> None:
    unrelated = tuple(Item(f"unrelated/{at}", "unrelated", "?", "x", (at,), (20 + at,), at) for at in range(3))
    without = patch_items(ItemSet(items=unrelated, groups=(group(),)), {"unrelated/2": False}, 16, seed=0)
    assert [item.id for item in without] == ["unrelated/0", "unrelated/1"]
    assert [item.other_ids for item in without] == [(1,), (0,)]
    with_groups = patch_items(ItemSet(items=unrelated, groups=(group("group"),)), {}, 16, seed=0)
    assert [item.id for item in with_groups] == [f"group/{row}" for row in range(4)]
    assert all(item.control for item in with_groups)


def test_questions_that_exceed_the_context_are_left_out() -> None:
    assert patch_items(ItemSet(groups=(group(),)), {"fact/0": True}, 2, seed=0) == ()
