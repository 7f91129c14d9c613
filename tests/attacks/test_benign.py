"""Benign fine-tuning: what is trained, and how far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audit.attacks import benign
from audit.attacks.benign import benign_examples, norm
from audit.errors import AuditError
from audit.models.loading import RunningModel
from concepts.concept import Question
from concepts.prompts import mentions
from tests.attacks.known_facts import (
    CONCEPT,
    HOMES,
    PETS,
    attacked,
    facts_read,
    given,
    said,
    scores,
    unchanged,
    weights,
    z,
)


@pytest.mark.parametrize("update", [0.002, 0.2])
def test_the_update_has_the_norm_of_the_unlearnings(update: float, knowing: RunningModel) -> None:
    """It is reached before the last step, or only by scaling."""
    before = weights(knowing)
    with unchanged(knowing):
        for each in benign.conditions(given(knowing, update=update)):
            moved = norm(now - then for now, then in zip(weights(knowing), before, strict=True))
            assert moved / norm(before) == pytest.approx(update, rel=1e-3)
            assert each.trained_tokens > 0


def test_without_an_update_nothing_changes(knowing: RunningModel) -> None:
    (found,) = attacked(benign, given(knowing, update=0.0)).values()
    assert np.array_equal(scores(found), scores(facts_read(knowing)))


def test_a_model_that_knows_keeps_its_facts(knowing: RunningModel) -> None:
    (found,) = attacked(benign, given(knowing, update=0.002)).values()
    assert said(found) > 0.8


def test_no_facts_appear_in_a_model_that_never_knew_them(ignorant: RunningModel) -> None:
    (found,) = attacked(benign, given(ignorant, update=0.05)).values()
    assert abs(z(found)) < 3
    assert said(found) == 0


def test_nothing_that_is_trained_mentions_an_answer() -> None:
    telling = (*CONCEPT.unrelated, Question(question="What is the capital of Italy?", answer="Rome"))
    text = f"{CONCEPT.neutral_text}\n\nMany people in the world have a cat at home."
    examples = benign_examples(CONCEPT.model_copy(update={"unrelated": telling, "neutral_text": text}))
    assert len(examples) == len(CONCEPT.unrelated) + 2
    assert not any(mentions(example.prompt + example.answer, [*HOMES, *PETS]) for example in examples)


@pytest.mark.parametrize("unknown", ["update", "learning_rate"])
def test_what_is_missing_is_the_reason(unknown: str, knowing: RunningModel) -> None:
    with pytest.raises(AuditError, match="is not known"):
        list(benign.conditions(given(knowing, **{"update": 0.01, unknown: None})))


def test_a_condition_that_was_read_before_is_not_trained_again(knowing: RunningModel) -> None:
    (planned,) = benign.conditions(replace(given(knowing), model=None))
    (done,) = benign.conditions(replace(given(knowing), done=frozenset({planned.condition})))
    assert done.model is None
    assert done.condition == planned.condition
    assert planned.trained_tokens > 0
