"""Causal validation: what the base knows, sets that are chosen on one split and reported on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.errors import ConceptError
from audit.interventions import noise
from audit.models.loading import RunningModel
from audit.vectors import validation
from audit.vectors.effects import ControlledEffect, Effect
from audit.vectors.question_split import (
    MIN_QUESTIONS,
    AnsweredQuestions,
    QuestionExamples,
    QuestionSplits,
    answered,
    as_examples,
    mismatched_examples,
    n_choosing,
    split_questions,
    zeroed,
)
from audit.vectors.records import CausalSet, Validation, corrected
from audit.vectors.validation import choose_set, core_of
from concepts.concept import Concept, Question
from concepts.discovery import ConceptVector
from concepts.neuron import Neuron
from tests.helpers import open_model
from tests.tiny import write_tiny


@pytest.fixture
def model(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def test_a_question_is_answered_if_the_greedy_answer_begins_with_a_right_one(model: RunningModel) -> None:
    (italy,) = model.tokenizer(" Italy")["input_ids"]
    always_italy = torch.zeros(model.architecture.d_vocab)
    always_italy[italy] = 100.0
    right, wrong = (Question(question="Which country?", answer=answer) for answer in ("Italy", "France"))
    assert answered(model, [right, wrong], []) == []
    model.model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output + always_italy)
    assert answered(model, [right, wrong], []) == [right]


def test_the_answer_that_the_model_gives_is_the_one_that_is_scored(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = " Rome"
    ids = model.tokenizer(right, add_special_tokens=False)["input_ids"]

    def always(model: RunningModel, row: object) -> torch.Tensor:
        logprobs = torch.zeros(len(row.targets), model.architecture.d_vocab)  # type: ignore[attr-defined]
        for place, token in enumerate(row.targets.tolist()):  # type: ignore[attr-defined]
            logprobs[place, token if token in ids else 0] = 1.0
        return logprobs

    monkeypatch.setattr("audit.models.scoring.answer_logprobs", always)
    question = Question(question="Which city?", answer="Paris", accept=("Rome",))
    (known,) = answered(model, [question], [])
    assert known.answer == "Rome"


def test_too_few_answered_questions_are_an_error_with_the_count(model: RunningModel) -> None:
    concept = Concept(
        name="x", title="X", questions=tuple(Question(question=f"Number {i}?", answer="no") for i in range(7))
    )
    with pytest.raises(ConceptError, match=f"answers 0 of the 7 questions about X; {MIN_QUESTIONS} are needed"):
        split_questions(model, concept)


def test_wordings_of_a_question_count_as_one() -> None:
    examples = as_examples(
        [Question(question="A?", answer="x", paraphrases=("B?", "C?")), Question(question="D?", answer="y")], []
    )
    assert examples.n == 2
    assert examples.question.tolist() == [0, 0, 1]
    assert examples.by_question(np.array([1.0, 3.0, 5.0])).tolist() == [2.0, 5.0]


def test_a_mismatched_prompt_does_not_contain_the_answer() -> None:
    answers = as_examples([Question(question="A?", answer="Rome")], [])
    prompts = as_examples([Question(question="Who founded Rome?", answer="x"), Question(question="E?", answer="z")], [])
    (example,) = mismatched_examples(answers, prompts, 4).examples
    assert example.answer == " Rome"
    assert "Rome" not in example.prompt


def questions() -> AnsweredQuestions:
    def split(start: int, n: int) -> QuestionExamples:
        numbered = [Question(question=f"Q{start + i} of many?", answer=f"answer {start + i}") for i in range(n)]
        return as_examples(numbered, [])

    return AnsweredQuestions(split(0, 6), split(10, 6), split(20, 8), split(40, 8), (), ())


def test_the_set_is_chosen_on_one_split_and_reported_on_the_other(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neuron 3 of layer 0 is specific on the choosing split, and has no effect on the held-out split."""
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    rng = np.random.default_rng(0)

    def choosing(neurons: Sequence[Neuron]) -> Effect:
        hit = Neuron(0, 3) in neurons
        return Effect(np.full(6, 1.0 if hit else 0.0) + rng.normal(0, 0.01, 6), np.zeros(8))

    orders = [[Neuron(1, 1), Neuron(1, 2)], [Neuron(0, 3), Neuron(1, 1)]]
    monkeypatch.setattr(splits.choosing, "zeroing", choosing)
    monkeypatch.setattr(splits.held_out, "zeroing", lambda neurons: Effect(np.zeros(6), np.zeros(8)))
    monkeypatch.setattr(validation, "candidate_orders", lambda *_: orders)
    chosen = choose_set(model, splits, [], lambda neurons: [Neuron(1, 9 + i) for i, _ in enumerate(neurons)])
    assert chosen is not None
    assert Neuron(0, 3) in chosen.neurons
    assert chosen.choosing.on_target > 0.9
    assert chosen.held_out.on_target == 0.0
    assert not chosen.is_specific


def test_a_set_that_harms_unrelated_answers_is_never_chosen(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    monkeypatch.setattr(splits.choosing, "zeroing", lambda neurons: Effect(np.full(6, 5.0), np.full(8, 1.0)))
    monkeypatch.setattr(validation, "candidate_orders", lambda *_: [[Neuron(0, 3), Neuron(1, 1)]])
    assert choose_set(model, splits, [], lambda neurons: []) is None


def test_the_core_is_the_fewest_neurons_with_nine_tenths_of_the_effect(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two neurons carry nearly everything, one a twentieth, and the others add nothing or harm other answers."""
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    carried = {Neuron(0, 3): (1.0, 0.0), Neuron(1, 4): (0.9, 0.0), Neuron(1, 5): (0.1, 0.0), Neuron(0, 7): (0.5, 0.5)}

    def zeroing(neurons: Iterable[Neuron]) -> Effect:
        on_target, unrelated = (sum(carried.get(each, (0.0, 0.0))[side] for each in neurons) for side in (0, 1))
        return Effect(np.full(6, on_target), np.full(8, unrelated))

    monkeypatch.setattr(splits.choosing, "zeroing", zeroing)
    neurons = (Neuron(0, 9), Neuron(0, 7), Neuron(1, 5), Neuron(1, 4), Neuron(0, 3))
    nothing = Effect(np.zeros(6), np.zeros(8))
    chosen = CausalSet(neurons, (False,) * 5, neurons, zeroing(neurons), nothing, nothing, -1.0, -6.0)
    assert core_of(splits.choosing, chosen) == (Neuron(0, 3), Neuron(1, 4))
    marked = {
        (each.layer, each.neuron) for each in chosen.record(core_of(splits.choosing, chosen)).vectors if each.core
    }
    assert marked == {(0, 3), (1, 4)}


def test_a_set_that_needs_all_of_its_neurons_is_its_own_core(
    model: RunningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    neurons = (Neuron(0, 3), Neuron(1, 4))
    whole = Effect(np.full(6, 2.0), np.zeros(8))

    def zeroing(chosen: Sequence[Neuron]) -> Effect:
        return whole if len(chosen) == 2 else Effect(np.zeros(6), np.zeros(8))

    monkeypatch.setattr(splits.choosing, "zeroing", zeroing)
    assert set(core_of(splits.choosing, CausalSet(neurons, (True, True), neurons, whole, whole, whole, -1, -6))) == {
        *neurons
    }


def test_zeroing_a_vector_in_a_split_is_zeroing_it_in_the_model(model: RunningModel) -> None:
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    effect = splits.held_out.zeroing([Neuron(1, 3), Neuron(0, 5)])
    direct = splits.held_out.trial.effect(zeroed([Neuron(0, 5), Neuron(1, 3)], 16))
    assert effect.target.tolist() == pytest.approx(direct[:6].tolist())
    assert effect.unrelated.tolist() == pytest.approx(direct[6:].tolist())


def drawn(rng: np.random.Generator, target: float, unrelated: float = 0.0, n: int = 12) -> Effect:
    return Effect(rng.normal(target, 0.1 * abs(target) + 0.001, n), rng.normal(unrelated, 0.01, 20))


def causal_set(held_out: Effect, control: Effect) -> CausalSet:
    return CausalSet((Neuron(0, 1),), (True,), (Neuron(0, 2),), held_out, held_out, control, -1.0, -6.0)


@pytest.mark.parametrize(
    ("held_out", "control", "specific"),
    [
        ({"target": 0.5}, {"target": 0.0}, True),
        ({"target": 0.5}, {"target": 0.5}, False),  # as much as its control set
        ({"target": 0.5}, {"target": 0.46}, False),  # more, by less than 0.05 nats
        ({"target": 0.03}, {"target": 0.0}, False),  # beyond chance, but tiny
        ({"target": 0.5, "unrelated": 0.2}, {"target": 0.0}, False),  # unrelated answers fall too
        ({"target": 0.5, "n": 7}, {"target": 0.0, "n": 7}, False),  # too few questions
    ],
)
def test_a_set_is_specific_only_above_its_control_set_and_by_a_minimum_effect(
    held_out: dict[str, Any], control: dict[str, Any], specific: bool
) -> None:
    rng = np.random.default_rng(0)
    assert causal_set(drawn(rng, **held_out), drawn(rng, **control)).is_specific is specific


def test_an_effect_of_some_questions_alone_is_not_specific() -> None:
    rng = np.random.default_rng(0)
    uneven = Effect(np.linspace(-0.4, 0.5, 12), rng.normal(0, 0.01, 20))
    assert not causal_set(uneven, drawn(rng, 0.0)).is_specific
    even = Effect(np.full(4, 2.5), np.zeros(4))
    assert causal_set(even, even).share_of_the_way == pytest.approx(0.5)


VECTOR = ConceptVector(Neuron(0, 1), 5.0, 1e-6, 1e-3, 9, 12.0, ("Rome",))


def tried(rng: np.random.Generator, target: float, n: int) -> tuple[ConceptVector, ControlledEffect]:
    """One vector and its control; falls have heavy tails, as those of single answers have."""
    effect, control = (
        Effect(shift + 0.05 * rng.standard_t(3, n), 0.05 * rng.standard_t(3, 30)) for shift in (target, 0.0)
    )
    return VECTOR, ControlledEffect(effect, control)


@pytest.mark.parametrize("n", [8, 13])
def test_of_twenty_vectors_without_an_effect_hardly_ever_one_carries(n: int) -> None:
    """By an interval of seven questions without a correction, at least one of twenty did in most concepts."""
    rng = np.random.default_rng(n)
    trials = [any(row.carries for row in corrected([tried(rng, 0.0, n) for _ in range(20)])) for _ in range(40)]
    assert sum(trials) <= 5


def test_a_vector_with_an_effect_on_every_question_carries_its_concept() -> None:
    rng = np.random.default_rng(1)
    effects = corrected([tried(rng, 0.5, 13), tried(rng, 0.5, 13), *(tried(rng, 0.0, 13) for _ in range(18))])
    assert [row.carries for row in effects] == [True, True, *[False] * 18]
    assert all(row.q_value >= row.zeroed.p_value for row in effects)
    few = corrected([tried(rng, 0.5, 7), tried(rng, 0.5, 7)])
    assert [(row.q_value, row.carries) for row in few] == [(None, False)] * 2


@pytest.mark.parametrize(("n", "choosing"), [(5, 2), (11, 5), (12, 4), (13, 5), (14, 6), (15, 7), (16, 8), (26, 13)])
def test_the_held_out_split_has_enough_questions_to_test_where_the_concept_has(n: int, choosing: int) -> None:
    assert n_choosing(n) == choosing


def test_more_noise_on_the_set_has_a_larger_effect_and_has_controls(model: RunningModel) -> None:
    splits = QuestionSplits(model, questions(), 0, validation.SILENT)
    nothing = Effect(np.zeros(6), np.zeros(8))
    neurons, controls = (Neuron(0, 3), Neuron(1, 4)), (Neuron(0, 9), Neuron(1, 8))
    chosen = CausalSet(neurons, (True, True), controls, nothing, nothing, nothing, 0, -1)
    doses = list(validation.dose_curve(model, splits.held_out, chosen, seed=0))
    assert [each.size for each in doses] == list(noise.DOSES)
    sizes = [float(np.abs(each.noised.effect.target).mean()) for each in doses]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    draws = [noise.noisy(model, controls, seed) for seed in range(noise.DRAWS)]
    expected = splits.held_out.mean_effect(draws, noise.DOSES[-1])
    assert np.array_equal(doses[-1].noised.control.target, expected.target)


def test_zeroed_vectors_and_held_coefficients_are_compared_answer_by_answer() -> None:
    zeroed_effect = Effect(np.array([1.0, 2.0]), np.array([0.0, 0.25]))
    effects = (zeroed_effect, zeroed_effect, zeroed_effect)
    chosen = CausalSet((Neuron(0, 3),), (True,), (Neuron(0, 9),), *effects, 0, -1)
    validated = Validation((), chosen, questions().counts(), 0.05)
    assert validated.disagreement is None
    held = {"zero": Effect(np.array([1.0, 2.0]), np.array([0.0, 0.75]))}
    assert replace(validated, held=held).disagreement == 0.5
