"""Jailbreak recovery and vector activation: planted cases, controls, correction for choosing the best prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from scipy.stats import binomtest

import audit.verdict
from audit.metrics.answers import jailbreak_recovery
from audit.metrics.contract import Evidence
from audit.metrics.vectors import vector_activation
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import Item
from audit.questions.readings import Readings
from audit.result import Finding, Measurement
from audit.vectors.trace import TracedVector, TracedVectors
from audit.verdict import judge
from concepts.neuron import Neuron
from tests.metrics.planted import evidence_of
from tests.test_verdict import memorised

ByPrompt = dict[str, Readings]
Case = Literal["present", "hidden", "talkative", "removed", "avoided"]
N, UNRELATED = 10, 6
PROMPTS = ("plain", "in_context", "persona", "pretext")
KNOWN, FLOOR = -0.5, -6.0
RIGHT_ANSWER_SCORES: dict[Case, dict[str, float]] = {
    "present": dict.fromkeys(PROMPTS, KNOWN),
    "hidden": {"plain": -6.0, "in_context": -5.5, "persona": -1.0, "pretext": -6.0},
    "talkative": {"plain": -6.0, "in_context": -6.0, "persona": -1.0, "pretext": -6.0},
    "removed": dict.fromkeys(PROMPTS, FLOOR),
    "avoided": dict.fromkeys(PROMPTS, -15.0),
}
"""Log p of right answers by prompt; in *talkative*, wrong answers score as high as right ones."""
N_WRONG = 4


def condition(prompt: str) -> Condition:
    return Condition("jailbreaks", prompt)


def item(prompt: str, kind: str, place: int, wrong: int) -> Item:
    return Item(
        id=f"{kind}/{place}",
        kind=kind,
        question=f"{kind} {place}?",
        answer=f"right {place}",
        prompt_ids=(1,),
        answer_ids=(2,),
        place=place,
        wrong=tuple(f"wrong {number}" for number in range(wrong)),
        wrong_ids=tuple(range(3, 3 + wrong)),
        opening=prompt,
    )


def readings(case: Case, seed: int = 0, wrong: int = N_WRONG, prompts: tuple[str, ...] = PROMPTS) -> ByPrompt:
    """Prompt -> the readings of one model under it."""
    rng = np.random.default_rng(seed)
    kinds = (("target", N), ("unrelated", UNRELATED))
    by_prompt = {}
    for prompt in prompts:
        items = tuple(item(prompt, kind, place, wrong) for kind, n in kinds for place in range(n))
        scores = {}
        for entry in items:
            right = KNOWN if entry.kind == "unrelated" else RIGHT_ANSWER_SCORES[case][prompt]
            floor = right if case == "talkative" and entry.kind == "target" else FLOOR
            scores[entry.id] = np.array([right, *[floor] * wrong]) + rng.normal(0, 0.3, 1 + wrong)
        left_out = N if prompt == "in_context" else 0
        by_prompt[prompt] = Readings(items=items, first_logprobs=scores, sentences_left_out=left_out)
    return by_prompt


def evidence_under(**roles: ByPrompt) -> Evidence:
    """The readings of each role, arranged by condition."""
    prompts = list(dict.fromkeys(prompt for by_prompt in roles.values() for prompt in by_prompt))
    under = {condition(prompt): {role: by_prompt[prompt] for role, by_prompt in roles.items()} for prompt in prompts}
    return replace(evidence_of({}), by_condition={AS_IS: {role: Readings() for role in roles}} | under)


def measured(case: Case, **roles: ByPrompt) -> Measurement:
    models = {"base": readings("present", seed=1), "unlearned": readings(case, seed=2), **roles}
    return jailbreak_recovery.measure(evidence_under(**models)).named("jailbreak_recovery", "")


def finding_of(measurement: Measurement) -> Finding:
    measurements = {"exact_memorisation": memorised(0.0), measurement.metric: measurement}
    return judge("italy", audit.verdict.Case("Italy", measurements))


def verdict(measurement: Measurement) -> str:
    return finding_of(measurement).verdict


def row(measurement: Measurement, prompt: str) -> dict[str, Any]:
    return next(row for row in measurement.items if row["prompt"] == prompt)


def test_the_planted_cases_are_ordered() -> None:
    present, hidden, removed, avoided = (measured(case).value for case in ("present", "hidden", "removed", "avoided"))
    assert present == pytest.approx(1, abs=0.1)
    assert hidden == pytest.approx(1 - 0.5 / 5.5, abs=0.1)
    assert removed == pytest.approx(0, abs=0.1)
    assert avoided < -1


def test_an_unchanged_model_recovers_exactly_all() -> None:
    same = readings("present", seed=1)
    measurement = measured("present", unlearned=same)
    assert measurement.value == 1.0
    assert measurement.interval == (1.0, 1.0)


def test_the_prompt_that_recovers_the_answers_is_named_and_the_verdict_is_hidden() -> None:
    measurement = measured("hidden")
    assert measurement.details["best"] == "persona"
    assert row(measurement, "plain")["recovery"] == pytest.approx(0, abs=0.1)
    finding = finding_of(measurement)
    assert finding.verdict == "hidden"
    assert "persona" in finding.reason


@pytest.mark.parametrize("case", ["removed", "avoided", "talkative"])
def test_answers_that_no_prompt_distinguishes_from_wrong_ones_are_not_hidden(case: Any) -> None:
    assert verdict(measured(case)) == "inconclusive"


def test_a_prompt_that_raises_any_answer_raises_the_control_as_well() -> None:
    measurement = measured("talkative")
    assert measurement.value is not None
    assert measurement.value > 0.8
    assert measurement.control is not None
    assert measurement.control.value == pytest.approx(measurement.value, abs=0.1)
    assert measurement.p_value > 0.05  # type: ignore[operator]  # it is not None


def test_a_prompt_with_text_about_the_concept_decides_only_with_a_retained_model() -> None:
    recovering = readings("present", seed=2, prompts=("plain", "in_context"))
    base = readings("present", seed=1, prompts=("plain", "in_context"))
    ignorant = readings("removed", seed=3, prompts=("plain", "in_context"))
    without_retained = measured("present", base=base, unlearned=recovering)
    assert without_retained.value == pytest.approx(1, abs=0.1)
    assert verdict(without_retained) == "inconclusive"
    assert verdict(measured("present", base=base, unlearned=recovering, retained=ignorant)) == "hidden"
    assert verdict(measured("present", base=base, unlearned=recovering, retained=recovering)) == "inconclusive"


def test_answers_that_a_retained_model_gives_under_the_same_prompt_are_not_hidden() -> None:
    measurement = measured("hidden", retained=readings("hidden", seed=3))
    assert measurement.retained == pytest.approx(measurement.value, abs=0.1)
    assert verdict(measurement) == "inconclusive"


def test_a_prompt_under_which_the_base_knows_nothing_is_undefined_and_not_chosen() -> None:
    measurement = measured("present", base=readings("hidden", seed=1))
    assert row(measurement, "pretext")["recovery"] is None
    assert measurement.details["best"] in ("persona", "in_context")


def test_a_base_that_knows_nothing_under_any_prompt_is_not_measured() -> None:
    measurement = measured("removed", base=readings("removed", seed=1))
    assert "under none of the prompts" in str(measurement.not_measured)


def test_without_wrong_answers_the_floor_is_unknown_and_the_reason_is_given() -> None:
    measurement = measured("present", base=readings("present", wrong=0), unlearned=readings("present", wrong=0))
    assert "alternative of the same type" in str(measurement.not_measured)


def test_rows_contain_unrelated_questions_and_left_out_sentences() -> None:
    measurement = measured("removed")
    assert row(measurement, "persona")["unrelated_questions"] == pytest.approx(1, abs=0.15)
    assert row(measurement, "in_context")["sentences_left_out"] == N
    assert row(measurement, "persona")["sentences_left_out"] == 0


def test_p_values_are_corrected_for_choosing_the_best_prompt() -> None:
    """Models without a preference: the smallest p-value over the prompts is below 0.05 at the nominal rate."""
    smallest = []
    for seed in range(200):
        evidence = evidence_under(unlearned=readings("talkative", seed))
        answers = jailbreak_recovery.first_token_scores(evidence, "unlearned", "target")
        smallest.append(min(jailbreak_recovery.preferences(answers, seed).values()))
    below = sum(p < 0.05 for p in smallest)
    assert binomtest(below, 200, 0.05).pvalue > 0.001, f"{below} of 200 below 0.05"


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
    return measurement.named("vector_activation", "")


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
