"""Causal validation: what the base knows, sets that are chosen on one side and reported on the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from audit.errors import ConceptError
from audit.interventions import noise
from audit.models.loading import RunningModel
from audit.vectors import validation
from audit.vectors.asking import FEWEST, Questions, asked, asked_under, known, known_questions
from audit.vectors.effects import Effect
from audit.vectors.question_split import Bench, Spot, zeroed
from audit.vectors.validation import FoundSet, Validation, search
from concepts.concept import Concept, Question
from tests.helpers import open_model
from tests.tiny import write_tiny


@pytest.fixture
def model(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def greedy_question(model: RunningModel, text: str, tokens: int = 2) -> Question:
    """A question with what the model itself answers."""
    from concepts.prompts import few_shot

    ids = model.tokenizer(few_shot(text))["input_ids"]
    written = model.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)[0, len(ids) :]
    return Question(question=text, answer=model.tokenizer.decode(written))


def test_a_question_is_known_if_the_greedy_answer_begins_with_a_right_one(model: RunningModel) -> None:
    asked_texts = [f"What is number {index}?" for index in range(6)]
    knows = [Question(question=text, answer="wrong answer") for text in asked_texts]
    assert known(model, knows, []) == []


def test_the_answer_that_is_given_is_the_one_that_is_scored(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = " Rome"
    ids = model.tokenizer(right, add_special_tokens=False)["input_ids"]

    def always(model: RunningModel, row: object) -> torch.Tensor:
        logprobs = torch.zeros(len(row.targets), model.architecture.d_vocab)  # type: ignore[attr-defined]
        for place, token in enumerate(row.targets.tolist()):  # type: ignore[attr-defined]
            logprobs[place, token if token in ids else 0] = 1.0
        return logprobs

    monkeypatch.setattr("audit.vectors.asking.answer_logprobs", always)
    question = Question(question="Which city?", answer="Paris", accept=("Rome",))
    (found,) = known(model, [question], [])
    assert found.answer == "Rome"


def test_too_few_known_questions_are_refused_with_the_count(model: RunningModel) -> None:
    concept = Concept(
        name="x", title="X", questions=tuple(Question(question=f"Number {i}?", answer="no") for i in range(7))
    )
    with pytest.raises(ConceptError, match=f"answers 0 of the 7 questions about X; {FEWEST} are needed"):
        known_questions(model, concept)


def test_wordings_of_a_question_count_as_one() -> None:
    found = asked(
        [Question(question="A?", answer="x", paraphrases=("B?", "C?")), Question(question="D?", answer="y")], []
    )
    assert found.n == 2
    assert found.of.tolist() == [0, 0, 1]
    assert found.by_question(np.array([1.0, 3.0, 5.0])).tolist() == [2.0, 5.0]


def test_no_answer_stands_in_the_question_it_is_scored_under() -> None:
    answers = asked([Question(question="A?", answer="Rome")], [])
    prompts = asked([Question(question="Who founded Rome?", answer="x"), Question(question="E?", answer="z")], [])
    found = asked_under(answers, prompts, 4)
    assert len(found.examples) == 1
    assert "Rome" not in found.examples[0].prompt


def questions() -> Questions:
    def side(start: int, n: int) -> object:
        return asked([Question(question=f"Q{start + i} of many?", answer=f"answer {start + i}") for i in range(n)], [])

    return Questions(side(0, 6), side(10, 6), side(20, 8), side(40, 8), (), ())  # type: ignore[arg-type]


def test_the_set_is_chosen_by_one_side_and_reported_on_the_other(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choosing side says 0.3 is specific; the reporting side, which nobody looked at, says that it does nothing."""
    bench = Bench(model, questions(), 0, validation.SILENT)
    rng = np.random.default_rng(0)
    helpful = {(0, 3)}

    def choosing(spots: object) -> Effect:
        hit = any((spot.layer, spot.neuron) in helpful for spot in spots)  # type: ignore[attr-defined]
        return Effect(np.full(6, 1.0 if hit else 0.0) + rng.normal(0, 0.01, 6), np.zeros(8))

    monkeypatch.setattr(bench.choosing, "without", choosing)
    monkeypatch.setattr(bench.reporting, "without", lambda spots: Effect(np.zeros(6), np.zeros(8)))
    monkeypatch.setattr(validation, "candidate_orders", lambda *_: [[Spot(1, 1), Spot(1, 2)], [Spot(0, 3), Spot(1, 1)]])
    found = search(model, bench, [], lambda spots: [(1, 9 + i, 1) for i, _ in enumerate(spots)])
    assert found is not None
    assert Spot(0, 3) in found.vectors
    assert found.choosing.on_target > 0.9
    assert found.held_out.on_target == 0.0
    assert not found.is_specific


def test_a_set_that_harms_unrelated_answers_is_never_chosen(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model, questions(), 0, validation.SILENT)
    monkeypatch.setattr(bench.choosing, "without", lambda spots: Effect(np.full(6, 5.0), np.full(8, 1.0)))
    monkeypatch.setattr(validation, "candidate_orders", lambda *_: [[Spot(0, 3), Spot(1, 1)]])
    assert search(model, bench, [], lambda spots: []) is None


def test_zeroing_a_vector_in_the_bench_is_zeroing_it_in_the_model(model: RunningModel) -> None:
    bench = Bench(model, questions(), 0, validation.SILENT)
    effect = bench.reporting.without([Spot(1, 3), Spot(0, 5)])
    direct = bench.reporting.trial.effect(zeroed([Spot(0, 5), Spot(1, 3)], 16))
    assert effect.target.tolist() == pytest.approx(direct[:6].tolist())
    assert effect.unrelated.tolist() == pytest.approx(direct[6:].tolist())


def test_a_set_is_specific_only_with_an_interval_above_one() -> None:
    def found(held_out: Effect) -> FoundSet:
        return FoundSet((Spot(0, 1),), (True,), (Spot(0, 2),), held_out, held_out, held_out, -1.0, -6.0)

    rng = np.random.default_rng(0)
    assert found(Effect(rng.normal(0.5, 0.1, 12), rng.normal(0, 0.01, 20))).is_specific
    assert not found(Effect(np.linspace(-0.4, 0.5, 12), rng.normal(0, 0.01, 20))).is_specific
    assert not found(Effect(rng.normal(0.5, 0.1, 12), rng.normal(0.2, 0.01, 20))).is_specific
    assert found(Effect(np.full(4, 2.5), np.zeros(4))).share_of_the_way == pytest.approx(0.5)


def test_noise_on_the_set_hurts_more_the_more_there_is_and_has_its_controls(model: RunningModel) -> None:
    bench = Bench(model, questions(), 0, validation.SILENT)
    nothing = Effect(np.zeros(6), np.zeros(8))
    found = FoundSet((Spot(0, 3), Spot(1, 4)), (True, True), (Spot(0, 9), Spot(1, 8)), nothing, nothing, nothing, 0, -1)
    doses = list(validation.dose_curve(model, bench.reporting, found, seed=0))
    assert [each.size for each in doses] == list(noise.DOSES)
    sizes = [float(np.abs(each.effect.target).mean()) for each in doses]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    draws = [noise.noisy(model, found.beside, seed) for seed in range(noise.DRAWS)]
    assert np.array_equal(doses[-1].control.target, bench.reporting.dosed(draws, noise.DOSES[-1]).target)


def test_zeroed_vectors_and_held_coefficients_are_compared_answer_by_answer() -> None:
    zeroed_effect = Effect(np.array([1.0, 2.0]), np.array([0.0, 0.25]))
    found = FoundSet((Spot(0, 3),), (True,), (Spot(0, 9),), zeroed_effect, zeroed_effect, zeroed_effect, 0, -1)
    validated = Validation((), found, questions(), 0.05)
    assert validated.disagreement is None
    held = {"zero": Effect(np.array([1.0, 2.0]), np.array([0.0, 0.75]))}
    assert replace(validated, held=held).disagreement == 0.5


def test_the_command_lines_limit_is_the_librarys() -> None:
    assert cli.COLLATERAL == validation.COLLATERAL
