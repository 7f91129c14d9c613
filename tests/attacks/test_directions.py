"""Direction ablation: what it removes, from which half it is computed, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.attacks import AttackedModel, directions
from audit.attacks.directions import FROM_BASE, FROM_UNRELATED
from audit.errors import AuditError
from audit.models.hooks import without_directions
from audit.models.loading import RunningModel
from audit.questions.base_parts import last_states
from tests.attacks.known_facts import attacked, changed, facts_read, given, items_of, said, scores, taught, unchanged, z
from tests.helpers import open_tiny
from tests.tiny import FAMILIES


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    """A model that knows the facts, of a family whose layers have biases."""
    folder = tmp_path_factory.mktemp("biased") / "model"
    return taught(open_tiny(folder, "gpt2", n_embd=64, tie=False, initializer_range=0.05), steps=30)


@pytest.fixture(scope="module")
def pushed(biased: RunningModel) -> RunningModel:
    """The same model, its states pushed far along one direction by the bias of the first layer."""
    model = changed(biased)
    direction = torch.randn(model.architecture.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.model.get_submodule("transformer.h.0.mlp.c_proj").bias.add_(30 * direction / direction.norm())
    return model


def test_a_push_along_one_direction_is_undone(biased: RunningModel, pushed: RunningModel) -> None:
    found = attacked(directions, given(pushed, biased))
    assert said(facts_read(pushed)) == 0
    assert said(found[FROM_BASE]) > 0.8
    assert said(found[FROM_UNRELATED]) == 0  # it pushes the states at unrelated questions as far


def test_in_the_base_nothing_is_removed(knowing: RunningModel) -> None:
    found = attacked(directions, given(knowing))[FROM_BASE]
    assert np.array_equal(found.says, facts_read(knowing).says)
    plain = {tuple(block.facts): block for block in facts_read(knowing).blocks}
    for block in found.blocks:
        (whole,) = (each for facts, each in plain.items() if set(block.facts) <= set(facts))
        rows = np.searchsorted(whole.facts, block.facts)
        assert block.scores[0] == pytest.approx(whole.scores[0][np.ix_(rows, rows)], abs=1e-4)


def test_no_condition_finds_facts_in_a_model_that_never_knew_them(
    ignorant: RunningModel, knowing: RunningModel
) -> None:
    for dose, reading in attacked(directions, given(ignorant, knowing)).items():
        assert abs(z(reading)) < 3, dose
        assert said(reading) == 0, dose


def test_the_direction_comes_from_the_half_that_is_not_read(biased: RunningModel, pushed: RunningModel) -> None:
    plain = given(pushed, biased)
    assert plain.base is not None
    other = {0: plain.base.residual[0], 1: torch.randn_like(plain.base.residual[1])}
    turned = replace(plain, base=replace(plain.base, residual=other))
    one, two = attacked(directions, plain)[FROM_BASE], attacked(directions, turned)[FROM_BASE]
    same = [np.allclose(a.scores[0], b.scores[0]) for a, b in zip(one.blocks, two.blocks, strict=True)]
    read_in = [int(one.fold[block.facts[0]]) for block in one.blocks]
    assert same == [fold == 1 for fold in read_in]
    assert set(read_in) == {0, 1}


def test_without_a_base_the_other_direction_is_still_removed(knowing: RunningModel) -> None:
    alone = replace(given(knowing), base=None)
    with pytest.raises(AuditError, match="not a version of the base"):
        list(directions.conditions(alone))
    assert _doses_until_error(directions.conditions(alone)) == [FROM_UNRELATED]


def _doses_until_error(conditions: Iterator[AttackedModel]) -> list[str]:
    doses = []
    try:
        for each in conditions:
            doses.append(each.condition.dose)
    except AuditError:
        pass
    return doses


def test_without_unrelated_questions_the_reason_is_given(knowing: RunningModel) -> None:
    plain = given(knowing)
    facts = replace(plain, items=plain.items.facts())
    with pytest.raises(AuditError, match="no unrelated questions"):
        list(directions.conditions(facts))
    assert set(_doses_until_error(directions.conditions(facts))) == {FROM_BASE}


def test_the_plan_lists_the_conditions_that_are_run(biased: RunningModel, pushed: RunningModel) -> None:
    plain = given(pushed, biased)
    run = [(each.condition, each.items) for each in directions.conditions(plain)]
    assert [(each.condition, each.items) for each in directions.conditions(replace(plain, model=None))] == run
    assert [condition.fold for condition, _ in run] == [None, 0, 1]


def test_the_weights_and_the_forward_pass_are_as_before(biased: RunningModel, pushed: RunningModel) -> None:
    before = scores(facts_read(pushed))
    with unchanged(pushed):
        list(directions.conditions(given(pushed, biased)))
    assert np.array_equal(scores(facts_read(pushed)), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_state_has_a_part_along_a_removed_direction(tmp_path: Path, family: str) -> None:
    model = open_tiny(tmp_path / "m", family)
    prompts = items_of(model).facts().written[:3]
    found = torch.nn.functional.normalize(torch.randn(2, model.architecture.d_model), dim=-1)
    assert (last_states(model, prompts) * found).sum(dim=-1).abs().min() > 1e-4
    with without_directions(model, dict(enumerate(found))):
        states = last_states(model, prompts)
    assert (states * found).sum(dim=-1).abs().max() < 1e-4
