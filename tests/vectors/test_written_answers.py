"""Answers written with and without an edit, which is not applied to the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.interventions import Rows, stored_rows
from audit.models.loading import RunningModel
from audit.progress import SILENT
from audit.vectors.question_split import QuestionExamples, as_examples
from audit.vectors.written_answers import answers, similarity_lost, written_effects
from concepts.concept import Question
from concepts.neuron import Neuron
from tests.helpers import open_model
from tests.tiny import write_tiny


@pytest.fixture
def model(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def questions(start: int, n: int) -> QuestionExamples:
    texts = [f"What is number {start + index}?" for index in range(n)]
    return as_examples([Question(question=text, answer="x", paraphrases=(f"{text} Say.",)) for text in texts], [])


def test_an_edit_that_changes_nothing_has_no_effect(model: RunningModel) -> None:
    """The stored rows written as a change: the hooks run, and all answers stay the same."""
    stored = stored_rows(model, [Neuron(0, 3), Neuron(1, 17)])
    (effects,) = written_effects(model, questions(0, 3), questions(10, 4), [stored])
    assert set(effects) == {"bleu", "rouge_l"}
    for effect in effects.values():
        assert effect.target.tolist() == [0.0] * 3
        assert effect.unrelated.tolist() == [0.0] * 4
        assert effect.record().unit.startswith("fall of the answer's similarity")


def test_a_large_edit_has_an_effect_and_leaves_the_model_unchanged(model: RunningModel) -> None:
    size, width = model.architecture.d_mlp, model.architecture.d_model
    heavy = {1: Rows(tuple(range(size)), 50 * torch.randn(size, width, generator=torch.Generator().manual_seed(0)))}
    before = answers(model, ["Question: a\nAnswer:"], {}, SILENT)
    nothing, something = written_effects(model, questions(0, 3), questions(10, 4), [{}, heavy])
    assert not nothing["rouge_l"].target.any()
    assert something["rouge_l"].on_target > 0.5
    assert answers(model, ["Question: a\nAnswer:"], {}, SILENT) == before


def test_an_answer_without_words_is_not_scored() -> None:
    lost = similarity_lost("rouge_l", ["", "Rome is old", "?"], ["Rome", "Rome is old", "?"])
    assert np.isnan(lost[0])
    assert np.isnan(lost[2])
    assert lost[1] == 0.0
    assert similarity_lost("bleu", ["Rome"], ["Rome"]).tolist() == [0.0]
    assert similarity_lost("bleu", ["Rome is the capital"], ["Paris"])[0] > 0.5
