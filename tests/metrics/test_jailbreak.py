"""Jailbreak recovery and vector activation: planted cases, controls, correction for choosing the best prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from audit.attacks import AttackInput
from audit.attacks.jailbreaks import conditions
from audit.knowledge.exchange import Block
from audit.metrics.answers import jailbreak_recovery
from audit.metrics.answers.jailbreak_recovery import preferences
from audit.metrics.contract import Evidence
from audit.metrics.vectors import vector_activation
from audit.models.loading import RunningModel
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import FACT, Encoder, FactGroup, ItemSet
from audit.questions.readings import Readings, read_conditions
from audit.questions.topics import ConceptTopic
from audit.result import Measurement
from audit.settings import Settings
from audit.vectors.trace import TracedVector, TracedVectors
from concepts.concept import library, load_concept
from concepts.facts import facts_of
from concepts.neuron import Neuron
from tests.metrics.planted import evidence_of, group

ByPrompt = dict[str, Readings]
Case = Literal["present", "hidden", "popular", "talkative", "removed", "avoided"]
N, UNRELATED = 12, 6
PROMPTS = ("plain", "in_context", "persona", "pretext")
KNOWN = 6.0
NATS: dict[Case, dict[str, float]] = {
    "present": dict.fromkeys(PROMPTS, KNOWN),
    "hidden": {"plain": 0.0, "in_context": 0.5, "persona": 5.0, "pretext": 0.0},
    "popular": dict.fromkeys(PROMPTS, 0.0),
    "talkative": dict.fromkeys(PROMPTS, 0.0),
    "removed": dict.fromkeys(PROMPTS, 0.0),
    "avoided": dict.fromkeys(PROMPTS, -9.0),
}
"""How far a true answer lies above what its question and its answer alone would give, by prompt. In *popular* some
answers are likely whatever is asked; in *talkative* a prompt makes all answers likely."""


def condition(prompt: str) -> Condition:
    return Condition("jailbreaks", prompt)


def scores(rng: np.random.Generator, m: int, nats: float, popular: float = 1.0, level: float = 0.0) -> np.ndarray:
    values = level + rng.normal(0, 2, (m, 1)) + rng.normal(0, popular, (1, m)) + rng.normal(0, 0.3, (m, m))
    return np.asarray(values + nats * np.eye(m))


def readings(case: Case, seed: int = 0, prompts: tuple[str, ...] = PROMPTS, types: int = 1) -> ByPrompt:
    """Prompt -> the readings of one model under it; no fact is read if there are no ``types``."""
    rng = np.random.default_rng(seed)
    facts = [group(FACT, f"type {number}", N, start=N * number) for number in range(types)]
    control = group("unrelated", "unrelated", UNRELATED)
    by_prompt = {}
    for prompt in prompts:
        popular, level = (
            (5.0 if case == "popular" else 1.0),
            (4.0 if case == "talkative" and prompt != "plain" else -6.0),
        )
        values = {(FACT, each.name): scores(rng, N, NATS[case][prompt], popular, level) for each in facts} | {
            ("unrelated", "unrelated"): scores(rng, UNRELATED, KNOWN)
        }
        left_out = N if prompt == "in_context" else 0
        by_prompt[prompt] = Readings(groups=(*facts, control), scores=values, sentences_left_out=left_out)
    return by_prompt


def evidence_under(**roles: ByPrompt) -> Evidence:
    """The readings of each role, arranged by condition."""
    prompts = list(dict.fromkeys(prompt for by_prompt in roles.values() for prompt in by_prompt))
    under = {condition(prompt): {role: by_prompt[prompt] for role, by_prompt in roles.items()} for prompt in prompts}
    return replace(evidence_of({}), by_condition={AS_IS: {role: Readings() for role in roles}} | under)


def measured(case: Case, **roles: ByPrompt) -> Measurement:
    models = {"base": readings("present", seed=1), "unlearned": readings(case, seed=2), **roles}
    return jailbreak_recovery.measure(evidence_under(**models)).named("jailbreak_recovery", "", "answers")


def row(measurement: Measurement, prompt: str) -> dict[str, Any]:
    return next(row for row in measurement.items if row["prompt"] == prompt)


def test_the_planted_cases_are_ordered() -> None:
    present, hidden, removed, avoided = (measured(case).value for case in ("present", "hidden", "removed", "avoided"))
    assert present == pytest.approx(1, abs=0.1)
    assert hidden == pytest.approx(5 / 6, abs=0.1)
    assert removed == pytest.approx(0, abs=0.1)
    assert avoided < -1  # type: ignore[operator]  # it is not None


def test_an_unchanged_model_recovers_exactly_all() -> None:
    measurement = measured("present", unlearned=readings("present", seed=1))
    assert measurement.value == 1.0
    assert measurement.interval == pytest.approx((1.0, 1.0))


def test_the_prompt_that_recovers_the_answers_is_named() -> None:
    measurement = measured("hidden")
    assert measurement.details["best"] == "persona"
    assert row(measurement, "plain")["recovery"] == pytest.approx(0, abs=0.1)
    assert measurement.p_value < 0.001  # type: ignore[operator]  # it is not None


@pytest.mark.parametrize("case", ["removed", "popular", "talkative"])
def test_answers_that_are_likely_whatever_is_asked_are_not_recovered(case: Any) -> None:
    measurement = measured(case)
    assert abs(measurement.value or 0) < 0.1
    assert measurement.p_value > 0.01  # type: ignore[operator]  # it is not None


def test_answers_that_a_retained_model_gives_under_the_same_prompt_are_shown_beside_it() -> None:
    measurement = measured("hidden", retained=readings("hidden", seed=3))
    assert measurement.retained == pytest.approx(measurement.value, abs=0.1)


def test_a_prompt_under_which_the_base_knows_nothing_is_undefined_and_not_chosen() -> None:
    measurement = measured("present", base=readings("hidden", seed=1))
    assert row(measurement, "pretext")["recovery"] is None
    assert measurement.details["best"] in ("persona", "in_context")


def test_a_base_that_knows_nothing_under_any_prompt_is_not_measured() -> None:
    measurement = measured("removed", base=readings("removed", seed=1))
    assert "under none of the prompts" in str(measurement.not_measured)


def test_without_types_and_without_the_attack_the_reasons_differ() -> None:
    untyped = {role: readings("present", types=0) for role in ("base", "unlearned")}
    assert "of the same type" in str(measured("present", **untyped).not_measured)
    none = {role: readings("present", prompts=()) for role in ("base", "unlearned")}
    assert "no jailbreak prompt was tried" in str(measured("present", **none).not_measured)


def test_rows_contain_unrelated_questions_and_left_out_sentences() -> None:
    measurement = measured("removed")
    assert row(measurement, "persona")["unrelated_questions"] == pytest.approx(1, abs=0.15)
    assert row(measurement, "in_context")["sentences_left_out"] == N
    assert row(measurement, "persona")["sentences_left_out"] == 0


# ---- exact p-values: right answers that beat wrong ones whatever is asked are no evidence


def test_a_question_blind_model_has_uniform_p_values_over_the_whole_library() -> None:
    """Each answer has its own popularity, whichever question is asked; the smallest p-value over three prompts."""
    smallest = []
    for number, name in enumerate([*library()] * 4):
        rng = np.random.default_rng(number)
        by_prompt: dict[str, dict[str, Block]] = {prompt: {} for prompt in PROMPTS[1:]}
        for blocks in by_prompt.values():
            start = 0
            for type_, m in sizes_of(name).items():
                blocks[type_] = Block(start + np.arange(m), scores(rng, m, 0.0, popular=5.0)[None])
                start += m
        smallest.append(min(preferences(by_prompt, seed=number).values()))
    below = sum(p < 0.05 for p in smallest)
    assert binomtest(below, len(smallest), 0.05, alternative="greater").pvalue > 0.001, f"{below} of {len(smallest)}"


def sizes_of(name: str) -> dict[str, int]:
    """Facts of each type of a library concept that can be exchanged; eight of one type where there are none."""
    types = [fact.type for fact in facts_of(load_concept(name)) if fact.type is not None]
    return {type_: types.count(type_) for type_ in types if types.count(type_) > 1} or {"any": 8}


def test_one_prompt_of_a_question_blind_model_has_uniform_p_values() -> None:
    p_values = []
    for seed in range(150):
        block = Block(np.arange(10), scores(np.random.default_rng(seed), 10, 0.0, popular=5.0)[None])
        p_values.append(preferences({"persona": {"city": block}}, seed)["persona"])
    assert kstest(p_values, "uniform").pvalue > 0.001


@pytest.mark.parametrize("name", ["italy", "months"])
def test_mismatched_questions_are_no_evidence_in_smollm2(name: str, running_smollm2: RunningModel) -> None:
    """Answers after the question of another fact, in a model that knows them: only the right question counts."""
    concept = load_concept(name)
    topic, encoder = ConceptTopic(concept), Encoder(running_smollm2.tokenizer, running_smollm2.context)
    given = AttackInput(running_smollm2, encoder, topic, topic.items(encoder), Settings())
    under = {each.condition: ItemSet(groups=each.items.groups) for each in conditions(given)}
    persona = condition("persona")
    read = read_conditions(running_smollm2, {persona: under[persona]})[persona]
    facts = [each for each in read.groups if each.kind == FACT]
    assert preference(facts, read, np.random.default_rng(0), mismatched=False) < 0.01
    p_values = [preference(facts, read, np.random.default_rng(seed), mismatched=True) for seed in range(100)]
    below = sum(p < 0.05 for p in p_values)
    assert binomtest(below, 100, 0.05, alternative="greater").pvalue > 0.001, f"{below} of 100 below 0.05"


def preference(facts: list[FactGroup], read: Readings, rng: np.random.Generator, mismatched: bool) -> float:
    """The p-value of the true answers, or of answers dealt at random to the questions of their type."""
    blocks, start = {}, 0
    for each in facts:
        m = len(each.ids)
        dealt = rng.permutation(m) if mismatched else np.arange(m)
        blocks[each.name] = Block(start + np.arange(m), read.scores[FACT, each.name][:, dealt][None])
        start += m
    return preferences({"persona": blocks}, seed=0)["persona"]


# ---- the vectors' coefficients

N_LAYERS, D_MLP = 3, 20
PLACES = [(0, 1, 1), (1, 2, -1), (2, 3, 1), (2, 4, -1)]
CONTROLS = [(layer, neuron + 10, sign) for layer, neuron, sign in PLACES for neuron in (neuron, neuron + 5)]


def keys(level: dict[str, float], seed: int) -> ByPrompt:
    """Key vectors: noise, plus ``level`` with its sign at each of the concept's neurons."""
    rng = np.random.default_rng(seed)
    by_prompt = {prompt: rng.normal(0, 0.1, (N, N_LAYERS, D_MLP)).astype(np.float32) for prompt in level}
    for prompt, coefficient in level.items():
        for layer, neuron, sign in PLACES:
            by_prompt[prompt][:, layer, neuron] += sign * coefficient  # vectors write their concept with either sign
    return {prompt: Readings(keys={"target": rows}) for prompt, rows in by_prompt.items()}


def activation(unlearned: dict[str, float]) -> Measurement:
    def vectors(places: list[tuple[int, int, int]]) -> tuple[TracedVector, ...]:
        rows, ids = [np.zeros(1)] * 2, [np.zeros(1, int)] * 4
        return tuple(TracedVector(Neuron(*place), *rows, *ids) for place in places)

    writes = (("a", "b"),) * len(PLACES)
    traced = TracedVectors(writes, vectors(PLACES), vectors(CONTROLS), 2, np.arange(3), ("w",) * 3, "float32")
    models = {"base": keys(dict.fromkeys(PROMPTS, 2.0), 1), "unlearned": keys(unlearned, 2)}
    measurement = vector_activation.measure(replace(evidence_under(**models), vectors=traced))
    return measurement.named("vector_activation", "", "internals")


def test_activation_orders_a_present_a_hidden_and_a_removed_concept() -> None:
    present = activation(dict.fromkeys(PROMPTS, 2.0))
    hidden = activation({"plain": 0.0, "in_context": 1.0, "persona": 2.0, "pretext": 1.0})
    removed = activation(dict.fromkeys(PROMPTS, 0.0))
    assert [result.value for result in (present, hidden, removed)] == pytest.approx([2, 4 / 3, 0], abs=0.1)
    assert present.base == pytest.approx(2, abs=0.1)


def test_activation_shows_which_prompt_activates_the_vectors() -> None:
    measurement = activation({"plain": 0.0, "in_context": 0.0, "persona": 2.0, "pretext": 0.0})
    assert row(measurement, "persona")["unlearned"] == pytest.approx(2, abs=0.1)
    assert row(measurement, "plain")["high"] < -1.8
    assert measurement.details["prompts"] == ["in_context", "persona", "pretext"]


def test_control_vectors_are_not_activated() -> None:
    measurement = activation(dict.fromkeys(PROMPTS, 2.0))
    assert measurement.control is not None
    assert measurement.control.value == pytest.approx(0, abs=0.1)
    assert row(measurement, "persona")["control_base"] == pytest.approx(0, abs=0.1)
