"""Attacks on the matrices of the blocks: rounding, noise and pruning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from audit.attacks import Attack, attacks
from audit.attacks._matrices import block_matrices, edited
from audit.attacks.noise import noised
from audit.attacks.pruning import pruned
from audit.models.loading import RunningModel
from audit.weights.grids import UNIFORM
from tests.attacks.known_facts import attacked, changed, facts_read, given, said, scores, unchanged, weights, z

NAMES = ("rounding", "noise", "pruning")
MATRICES_IN_A_BLOCK = 7
"""Of Llama: four of attention, three of the FFN."""


@pytest.fixture(params=NAMES)
def attack(request: pytest.FixtureRequest) -> Attack:
    return attacks()[request.param]


@pytest.fixture(scope="module")
def destroyed(knowing: RunningModel) -> RunningModel:
    """The model that knew, with random blocks."""
    model = changed(knowing)
    with torch.no_grad():
        for number, matrix in enumerate(block_matrices(model)):
            matrix.copy_(noised(30.0, 1, matrix, number))
    return model


def test_the_weights_are_restored_bit_for_bit(attack: Attack, knowing: RunningModel) -> None:
    before = weights(knowing)
    with unchanged(knowing):
        for _ in attack.conditions(given(knowing)):
            assert not all(torch.equal(*pair) for pair in zip(before, weights(knowing), strict=True))


def test_the_weights_are_restored_if_the_reader_stops(attack: Attack, knowing: RunningModel) -> None:
    with unchanged(knowing):
        conditions = attack.conditions(given(knowing))
        next(conditions)
        conditions.close()  # type: ignore[attr-defined]


def test_only_matrices_of_the_blocks_change(attack: Attack, knowing: RunningModel) -> None:
    named = dict(knowing.model.named_parameters())
    before = {name: parameter.clone() for name, parameter in named.items()}
    next(condition := attack.conditions(given(knowing, level="quick")))
    touched = {name for name, parameter in named.items() if not torch.equal(parameter, before[name])}
    condition.close()  # type: ignore[attr-defined]
    assert len(touched) == MATRICES_IN_A_BLOCK * knowing.architecture.n_layers
    assert all("proj" in name for name in touched)


def test_the_plan_lists_the_conditions_that_are_run(attack: Attack, knowing: RunningModel) -> None:
    run = [(each.condition, each.items) for each in attack.conditions(given(knowing))]
    planned = [(each.condition, each.items) for each in attack.conditions(replace(given(knowing), model=None))]
    assert planned == run
    assert len({condition for condition, _ in run}) == len(run)


def test_no_condition_finds_facts_in_a_model_that_never_knew_them(attack: Attack, ignorant: RunningModel) -> None:
    for dose, reading in attacked(attack, given(ignorant)).items():
        assert abs(z(reading)) < 3, dose
        assert said(reading) == 0, dose


def test_a_destroyed_model_does_not_look_better(attack: Attack, destroyed: RunningModel) -> None:
    for dose, reading in attacked(attack, given(destroyed)).items():
        assert z(reading) < 3, dose
        assert said(reading) == 0, dose


def test_a_model_that_knows_is_still_read_under_the_first_dose(attack: Attack, knowing: RunningModel) -> None:
    first, *_ = attacked(attack, given(knowing, level="quick")).values()
    assert said(first) > 0.5
    assert z(first) > 6


def test_a_topic_without_facts_has_no_conditions(attack: Attack, knowing: RunningModel) -> None:
    without = given(knowing)
    assert list(attack.conditions(replace(without, items=replace(without.items, groups=(), written=())))) == []


def test_rounding_undoes_an_update_below_half_a_step(knowing: RunningModel) -> None:
    """The base lies on the grid; in the unlearned model every weight inside a group is a third of a step away."""
    base = changed(knowing)
    unlearned = changed(knowing)
    with torch.no_grad():
        for matrix, moved in zip(block_matrices(base), block_matrices(unlearned), strict=True):
            matrix.copy_(UNIFORM[4].rounded(matrix))
            moved.copy_(_between(matrix))
    as_is, found = facts_read(unlearned), attacked(attacks()["rounding"], given(unlearned, base, level="quick"))
    expected = scores(facts_read(base))
    assert np.abs(scores(as_is) - expected).max() > 0.1
    assert scores(found["4 bits"]) == pytest.approx(expected, abs=1e-3)


def _between(matrix: torch.Tensor) -> torch.Tensor:
    parts = matrix.reshape(-1, 32)
    low, high = parts.amin(dim=1, keepdim=True), parts.amax(dim=1, keepdim=True)
    step = (high - low) / 15
    inner = (parts > low + step / 2) & (parts < high - step / 2)
    sign = torch.randint(0, 2, parts.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.where(inner, parts + sign * step / 3, parts).reshape(matrix.shape)


def test_noise_has_the_deviation_of_its_dose() -> None:
    matrix = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    for dose in (0.05, 0.2):
        added = noised(dose, 0, matrix, 0) - matrix
        assert float(added.std() / matrix.std()) == pytest.approx(dose, rel=0.01)
    assert torch.equal(noised(0.0, 0, matrix, 0), matrix)


def test_every_model_gets_the_same_noise_and_every_matrix_another() -> None:
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noised(0.1, 0, matrix, 3), noised(0.1, 0, matrix, 3))
    assert not torch.equal(noised(0.1, 0, matrix, 3), noised(0.1, 0, matrix, 4))
    assert not torch.equal(noised(0.1, 0, matrix, 3), noised(0.1, 1, matrix, 3))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_pruning_zeroes_the_smallest_weights(share: float) -> None:
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    left = pruned(share, matrix, 0)
    zeroed = left == 0
    assert int(zeroed.sum()) == round(share * matrix.numel())
    assert matrix[zeroed].abs().max() < matrix[~zeroed].abs().min()
    assert torch.equal(left[~zeroed], matrix[~zeroed])


def test_pruning_nothing_changes_nothing(knowing: RunningModel) -> None:
    with unchanged(knowing):
        for each in edited(given(knowing), "pruning", {"0%": partial(pruned, 0.0)}):
            assert each.model is not None
            assert all(torch.equal(*pair) for pair in zip(weights(knowing), weights(each.model), strict=True))
