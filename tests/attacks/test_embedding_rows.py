"""The base's embeddings of the subjects' tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.attacks import embedding_rows
from audit.attacks.embedding_rows import CONDITION
from audit.errors import AuditError
from audit.models.hooks import replacing_embeddings
from audit.models.loading import RunningModel
from audit.questions.base_parts import subject_tokens
from tests.attacks.known_facts import (
    PEOPLE,
    attacked,
    changed,
    facts_read,
    given,
    items_of,
    said,
    scores,
    tiny,
    unchanged,
)
from tests.helpers import open_tiny, plain_logprobs


@pytest.fixture(scope="module")
def masked(knowing: RunningModel) -> RunningModel:
    """The model that knows, with other embeddings of the subjects' tokens: it takes them for somebody else."""
    model = changed(knowing)
    ids = list(subject_tokens(items_of(model).facts().written, model.tokenizer))
    with torch.no_grad():
        rows = model.model.get_input_embeddings().weight
        rows[ids] = rows[torch.tensor(ids).roll(3)]
    return model


def test_knowledge_under_another_address_is_found(knowing: RunningModel, masked: RunningModel) -> None:
    found = attacked(embedding_rows, given(masked, knowing))[CONDITION.dose]
    assert said(facts_read(masked)) < 0.3
    assert np.array_equal(found.says, facts_read(knowing).says)
    assert scores(found) == pytest.approx(scores(facts_read(knowing)), abs=1e-4)


def test_in_the_base_nothing_changes(knowing: RunningModel) -> None:
    found = attacked(embedding_rows, given(knowing))[CONDITION.dose]
    assert scores(found) == pytest.approx(scores(facts_read(knowing)), abs=1e-5)


def test_a_destroyed_model_does_not_look_better(knowing: RunningModel, tmp_path: Path) -> None:
    random = tiny(tmp_path / "m", seed=5)
    assert said(attacked(embedding_rows, given(random, knowing))[CONDITION.dose]) == 0


def test_the_weights_are_as_before(knowing: RunningModel, masked: RunningModel) -> None:
    with unchanged(masked):
        assert len(list(embedding_rows.conditions(given(masked, knowing)))) == 1


def test_a_head_that_is_tied_to_the_embedding_stays(tmp_path: Path) -> None:
    """Only what the first block reads is replaced: with its own rows, a tied model is as it was."""
    model = open_tiny(tmp_path / "m", "llama", tie=True)
    rows = model.model.get_input_embeddings().weight.detach()
    ids = (65, 66, 67)
    own, other = plain_logprobs(model, (65, 70, 71)), plain_logprobs(model, (67, 70, 71))
    with replacing_embeddings(model, ids, rows[list(ids)].clone()):
        assert torch.equal(plain_logprobs(model, (65, 70, 71)), own)
    with replacing_embeddings(model, ids, rows[[67, 65, 66]].clone()):
        assert torch.equal(plain_logprobs(model, (65, 70, 71)), other)


def test_the_tokens_are_those_that_spell_the_subjects(knowing: RunningModel) -> None:
    prompts = items_of(knowing).facts().written
    spelled = "".join(knowing.tokenizer.decode([token]) for token in subject_tokens(prompts, knowing.tokenizer))
    assert set("".join(PEOPLE)) <= set(spelled)
    assert not set(":?\n") & set(spelled)


def test_a_model_of_other_tokens_is_refused(knowing: RunningModel, ignorant: RunningModel) -> None:
    plain = given(ignorant, knowing)
    assert plain.base is not None
    other = replace(plain, base=replace(plain.base, token_ids=plain.base.token_ids[1:]))
    with pytest.raises(AuditError, match="does not embed"):
        list(embedding_rows.conditions(other))
    with pytest.raises(AuditError, match="does not embed"):
        list(embedding_rows.conditions(replace(plain, base=None)))


def test_the_plan_has_the_one_condition(knowing: RunningModel) -> None:
    (planned,) = embedding_rows.conditions(replace(given(knowing), model=None))
    (run,) = embedding_rows.conditions(given(knowing))
    assert (planned.condition, planned.items) == (run.condition, run.items)
