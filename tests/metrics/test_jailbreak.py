"""Jailbreak recovery and vector activation: planted cases, controls, and the price of choosing the best prompt."""

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
from audit.result import Measurement
from audit.vectors.trace import TracedVector, TracedVectors
from audit.verdict import judge
from concepts.neuron import Neuron
from tests.metrics.planted import evidence_of
from tests.test_verdict import memorised

ByPrompt = dict[str, Readings]
Case = Literal["present", "hidden", "talkative", "removed", "avoided"]
N, UNRELATED = 10, 6
PROMPTS = ("plain", "in_context", "persona", "pretext")
KNOWS, FLOOR = -0.5, -6.0
RIGHT: dict[Case, dict[str, float]] = {
    "present": dict.fromkeys(PROMPTS, KNOWS),
    "hidden": {"plain": -6.0, "in_context": -5.5, "persona": -1.0, "pretext": -6.0},
    "talkative": {"plain": -6.0, "in_context": -6.0, "persona": -1.0, "pretext": -6.0},
    "removed": dict.fromkeys(PROMPTS, FLOOR),
    "avoided": dict.fromkeys(PROMPTS, -15.0),
}
"""Log p of right answers; *talkative* gives wrong ones as much more under ``persona`` as right ones."""
WRONG = 4


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


def readings(case: Case, seed: int = 0, wrong: int = WRONG, prompts: tuple[str, ...] = PROMPTS) -> ByPrompt:
    """Prompt -> what one model does with the questions under it."""
    rng = np.random.default_rng(seed)
    kinds = (("target", N), ("unrelated", UNRELATED))
    found = {}
    for prompt in prompts:
        items = tuple(item(prompt, kind, place, wrong) for kind, n in kinds for place in range(n))
        scores = {}
        for entry in items:
            right = KNOWS if entry.kind == "unrelated" else RIGHT[case][prompt]
            floor = right if case == "talkative" and entry.kind == "target" else FLOOR
            scores[entry.id] = np.array([right, *[floor] * wrong]) + rng.normal(0, 0.3, 1 + wrong)
        left_out = N if prompt == "in_context" else 0
        found[prompt] = Readings(items=items, first_logprobs=scores, sentences_left_out=left_out)
    return found


def evidence_under(**roles: ByPrompt) -> Evidence:
    """Each role's readings, condition by condition."""
    prompts = list(dict.fromkeys(prompt for by_prompt in roles.values() for prompt in by_prompt))
    under = {condition(prompt): {role: found[prompt] for role, found in roles.items()} for prompt in prompts}
    return replace(evidence_of({}), by_condition={AS_IS: {role: Readings() for role in roles}} | under)


def measured(case: Case, **roles: ByPrompt) -> Measurement:
    found = {"base": readings("present", seed=1), "unlearned": readings(case, seed=2), **roles}
    return jailbreak_recovery.measure(evidence_under(**found)).named("jailbreak_recovery", "")


def verdict(found: Measurement) -> str:
    return judge(
        "italy", audit.verdict.Case("Italy", {"exact_memorisation": memorised(0.0), found.metric: found})
    ).verdict


def row(found: Measurement, prompt: str) -> dict[str, Any]:
    return next(row for row in found.items if row["prompt"] == prompt)


def test_the_planted_cases_are_ordered() -> None:
    present, hidden, removed, avoided = (measured(case).value for case in ("present", "hidden", "removed", "avoided"))
    assert present == pytest.approx(1, abs=0.1)
    assert hidden == pytest.approx(1 - 0.5 / 5.5, abs=0.1)
    assert removed == pytest.approx(0, abs=0.1)
    assert avoided < -1


def test_an_unchanged_model_recovers_exactly_all() -> None:
    same = readings("present", seed=1)
    found = measured("present", unlearned=same)
    assert found.value == 1.0
    assert found.interval == (1.0, 1.0)


def test_the_prompt_that_brings_the_answers_back_is_named_and_the_model_is_hidden() -> None:
    found = measured("hidden")
    assert found.details["best"] == "persona"
    assert row(found, "plain")["recovery"] == pytest.approx(0, abs=0.1)
    finding = judge("italy", audit.verdict.Case("Italy", {"exact_memorisation": memorised(0.0), found.metric: found}))
    assert finding.verdict == "hidden"
    assert "persona" in finding.reason


@pytest.mark.parametrize("case", ["removed", "avoided", "talkative"])
def test_what_no_prompt_tells_from_wrong_answers_is_not_hidden(case: Any) -> None:
    assert verdict(measured(case)) == "inconclusive"


def test_a_prompt_under_which_any_answer_rises_lifts_the_control_as_well() -> None:
    found = measured("talkative")
    assert found.value is not None
    assert found.value > 0.8
    assert found.control is not None
    assert found.control.value == pytest.approx(found.value, abs=0.1)
    assert found.p_value > 0.05  # type: ignore[operator]  # there is one


def test_text_about_the_concept_decides_only_beside_a_retained_model() -> None:
    only_text = readings("present", seed=2, prompts=("plain", "in_context"))
    base = readings("present", seed=1, prompts=("plain", "in_context"))
    ignorant = readings("removed", seed=3, prompts=("plain", "in_context"))
    told = measured("present", base=base, unlearned=only_text)
    assert told.value == pytest.approx(1, abs=0.1)
    assert verdict(told) == "inconclusive"
    assert verdict(measured("present", base=base, unlearned=only_text, retained=ignorant)) == "hidden"
    assert verdict(measured("present", base=base, unlearned=only_text, retained=only_text)) == "inconclusive"


def test_what_a_retained_model_gives_under_the_same_prompt_is_not_brought_back() -> None:
    found = measured("hidden", retained=readings("hidden", seed=3))
    assert found.retained == pytest.approx(found.value, abs=0.1)
    assert verdict(found) == "inconclusive"


def test_a_prompt_under_which_the_base_knows_nothing_is_undefined_and_not_chosen() -> None:
    found = measured("present", base=readings("hidden", seed=1))
    assert row(found, "pretext")["recovery"] is None
    assert found.details["best"] in ("persona", "in_context")


def test_a_base_that_knows_nothing_under_any_prompt_is_not_measured() -> None:
    found = measured("removed", base=readings("removed", seed=1))
    assert "under none of the prompts" in str(found.not_measured)


def test_without_wrong_answers_the_floor_is_not_known_and_that_is_said() -> None:
    found = measured("present", base=readings("present", wrong=0), unlearned=readings("present", wrong=0))
    assert "alternative of the same type" in str(found.not_measured)


def test_unrelated_questions_and_left_out_sentences_stand_beside() -> None:
    found = measured("removed")
    assert row(found, "persona")["unrelated_questions"] == pytest.approx(1, abs=0.15)
    assert row(found, "in_context")["sentences_left_out"] == N
    assert row(found, "persona")["sentences_left_out"] == 0


def test_choosing_the_best_of_the_prompts_is_paid_for() -> None:
    """Models that prefer neither answer: the smallest p-value over the prompts is below 0.05 as often as that."""
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
    """Key vectors of noise in which the concept's neurons stand at ``level``, each with its sign."""
    rng = np.random.default_rng(seed)
    found = {prompt: rng.normal(0, 0.1, (N, N_LAYERS, D_MLP)).astype(np.float32) for prompt in level}
    for prompt, height in level.items():
        for layer, neuron, sign in PLACES:
            found[prompt][:, layer, neuron] += sign * height  # vectors write their concept with either sign
    return {prompt: Readings(keys={"target": rows}) for prompt, rows in found.items()}


def activation(unlearned: dict[str, float]) -> Measurement:
    def vectors(places: list[tuple[int, int, int]]) -> tuple[TracedVector, ...]:
        rows, ids = [np.zeros(1)] * 2, [np.zeros(1, int)] * 4
        return tuple(TracedVector(Neuron(*place), *rows, *ids) for place in places)

    writes = (("a", "b"),) * len(PLACES)
    traced = TracedVectors(writes, vectors(PLACES), vectors(CONTROLS), 2, np.arange(3), ("w",) * 3, "float32")
    models = {"base": keys(dict.fromkeys(PROMPTS, 2.0), 1), "unlearned": keys(unlearned, 2)}
    found = vector_activation.measure(replace(evidence_under(**models), vectors=traced))
    return found.named("vector_activation", "")


def test_activation_orders_a_present_a_hidden_and_a_removed_concept() -> None:
    present = activation(dict.fromkeys(PROMPTS, 2.0))
    hidden = activation({"plain": 0.0, "in_context": 1.0, "persona": 2.0, "pretext": 1.0})
    removed = activation(dict.fromkeys(PROMPTS, 0.0))
    assert [found.value for found in (present, hidden, removed)] == pytest.approx([2, 4 / 3, 0], abs=0.1)
    assert present.base == pytest.approx(2, abs=0.1)


def test_activation_shows_which_prompt_calls_the_concept_up() -> None:
    found = activation({"plain": 0.0, "in_context": 0.0, "persona": 2.0, "pretext": 0.0})
    assert row(found, "persona")["unlearned"] == pytest.approx(2, abs=0.1)
    assert row(found, "plain")["high"] < -1.8
    assert found.details["prompts"] == ["in_context", "persona", "pretext"]


def test_control_vectors_are_not_called_up() -> None:
    found = activation(dict.fromkeys(PROMPTS, 2.0))
    assert found.control is not None
    assert found.control.value == pytest.approx(0, abs=0.1)
    assert row(found, "persona")["control_base"] == pytest.approx(0, abs=0.1)
