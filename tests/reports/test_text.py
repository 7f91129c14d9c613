"""The terminal's view: verdicts and numbers in 100 columns, in whatever characters the terminal has."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from audit.result import VectorSearch
from reports import text
from reports.formatting import decimals, number
from reports.text.layout import WIDTH
from tests.sample_guard import adjusted, guarded
from tests.sample_result import compared, hostile, identical, kinds, known, sample, several, single, weights_only


def effect(target: float, unrelated: float = 0.0, ratio: float = 1.0) -> dict[str, Any]:
    values = {"target": target, "unrelated": unrelated, "specificity": target - unrelated, "ratio": ratio}
    estimates = {name: {"value": value, "interval": (value / 2, value * 2)} for name, value in values.items()}
    return {**estimates, "questions": {"target": 13, "unrelated": 13}, "unit": "nats"}


def vector(layer: int, neuron: int, sign: int, score: float, p_value: float, tokens: list[str]) -> dict[str, Any]:
    row = {"layer": layer, "neuron": neuron, "sign": sign, "score": score, "p_value": p_value, "tokens": tokens}
    return row | {"q_value": p_value}


def search(*vectors: dict[str, Any], **changes: Any) -> VectorSearch:
    document = {"concept": "italy", "title": "Italy", "words": ["Rome"], "words_of_several_tokens": []}
    document |= {"projection": "raw", "screened": 46_080, "vectors": list(vectors), "effect": "not measured"}
    return VectorSearch.model_validate(document | changes)


CARRIER = {**effect(0.125), "control": effect(0.0), "carries": True}
FOUND = (
    vector(17, 203, -1, 8.25, 1e-6, ["Rome", "[bold]", "\u202e"]),
    vector(3, 9, 1, 4.5, 0.01, ["pasta"]) | {"effect": CARRIER},
)


class Terminal(io.StringIO):
    """Replaces stdout, with a given encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.name_of_encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.name_of_encoding


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))


def flat(shown: str) -> str:
    return " ".join(shown.split())


def test_every_finding_has_its_verdict_and_its_whole_reason() -> None:
    shown = text.render(sample())
    assert "HIDDEN  Italy" in shown
    assert "INCONCLUSIVE  France" in shown
    for finding in sample().findings:
        assert finding.reason in flat(shown)
        assert finding.would_reverse in flat(shown)


def test_every_measured_number_is_shown_next_to_its_base() -> None:
    lines = text.render(single()).splitlines()
    for measurement in single().findings[0].measurements:
        if measurement.value is not None and measurement.base is not None:
            assert [line for line in lines if number(measurement.value) in line and number(measurement.base) in line], (
                measurement.metric
            )


def test_the_kind_the_note_and_the_conditions_are_shown() -> None:
    shown = text.render(known())
    only = known().findings[0]
    assert "HIDDEN, BROUGHT BACK  Italy" in shown
    assert only.note in flat(shown)
    lines = shown.splitlines()
    (head,) = [line for line in lines if line.strip().startswith("facts")]
    assert head.split() == ["facts:", "says", "/", "reads", "base", "unlearned", "p"]
    name = "relearning: half of the facts, 30 steps"
    (relearned,) = [line for line in lines if line.startswith(f"  {name}  ")]
    row = next(row for row in only.conditions if row.condition == name)
    unlearned = row.of("unlearned")
    assert unlearned is not None
    assert row.p_value is not None
    assert unlearned.says is not None
    assert unlearned.readable is not None
    numbers = ["–", decimals(unlearned.says), "/", decimals(unlearned.readable), number(row.p_value)]
    assert relearned.split()[-5:] == numbers


def test_a_reference_has_a_column_of_its_own() -> None:
    (head,) = [line for line in text.render(compared()).splitlines() if line.strip().startswith("facts")]
    assert head.split()[-3:] == ["unlearned", "reference", "p"]


def test_unmeasured_tests_give_their_reason_and_are_counted() -> None:
    shown = flat(text.render(single()))
    assert "Not measured, no vector of the concept passed the screen: Rank of the concept's tokens" in shown
    assert "2 tests (recovery, target token rank)" in shown
    assert "nothing: every test of this version ran" in text.render(single().model_copy(update={"not_checked": []}))


def test_the_weights_line_counts_tensors() -> None:
    assert "210 of 241 tensors differ" in text.render(sample())
    assert "identical bit for bit" in text.render(identical())


@pytest.mark.parametrize("build", [sample, several, known, kinds, compared, identical, weights_only, hostile])
def test_no_line_is_wider_than_100_columns(build: object) -> None:
    assert callable(build)
    assert max(len(line) for line in text.render(build()).splitlines()) <= WIDTH


def test_hostile_strings_cannot_control_the_terminal() -> None:
    shown = text.render(hostile())
    assert [char for char in "\x1b\x07\x00\u202e\u200b\ud800\u2028" if char in shown] == []
    assert "[bold red]" in shown
    shown.encode("utf-8")


def test_a_terminal_without_utf8_gets_plain_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal("cp1252"))
    for shown in (text.render(sample()), text.render(hostile()), text.render_demo({"npo": single()}, "Schluß.")):
        assert shown.isascii()
    assert "-7.812" in text.render(sample())


def test_vectors_are_listed_with_sign_score_and_tokens() -> None:
    shown = text.render_vectors(search(*FOUND))
    first, second = (line for line in shown.splitlines() if "Rome" in line or "pasta" in line)
    assert first.split()[:5] == ["17", "203", "−", "8.25", "1e-06"]
    assert second.split()[:6] == ["3", "9", "+", "4.5", "0.01", "0.125"]
    assert second.split()[6] == "*"
    assert "[bold] \\u202e" in first


def test_no_digit_gives_way_to_long_tokens() -> None:
    tokens = [f"token{i}" * 3 for i in range(12)]
    long = vector(29, 1_437, -1, 12.34, 1.459e-20, tokens) | {
        "effect": {**CARRIER, **effect(-0.0123), "carries": False}
    }
    shown = text.render_vectors(search(long))
    (row,) = [line for line in shown.splitlines() if "token0" in line]
    assert row.split()[:6] == ["29", "1437", "−", "12.34", "1.459e-20", "−0.0123"]
    assert max(len(line) for line in shown.splitlines()) <= WIDTH


def chosen_set(**changes: Any) -> dict[str, Any]:
    return {
        "vectors": [{"layer": 29, "neuron": 555, "coherent": True}, {"layer": 3, "neuron": 9, "coherent": False}],
        "held_out": effect(1.25, 0.05, 25.0),
        "control": effect(0.01, 0.0, 1.0),
        "choosing": effect(1.5, 0.05, 30.0),
        "log_probability_before": -1.0,
        "log_probability_floor": -6.0,
        "share_of_the_way_to_the_floor": 0.25,
        "specific": True,
        "p_value": 0.0125,
        "excess": 1.19,
    } | changes


def validated(**changes: Any) -> str:
    questions = {"choosing": 13, "held_out": 13, "unrelated_choosing": 13, "unrelated_held_out": 13}
    validation = {"questions": {**questions, "not_known_by_the_model": []}, "set": chosen_set(), "noise": []}
    validation |= {"coefficients_held": {}, "held_at_zero_differs_from_zeroed_by": None, "written_answers": {}}
    return text.render_vectors(search(*FOUND, effect=validation | {"collateral_limit": 0.05} | changes))


def test_the_set_that_carries_a_concept_is_shown_with_its_cost() -> None:
    shown = " ".join(validated().split())
    assert "Set: 2 vectors, 1 of which promotes its words." in shown
    assert (
        "fall by 1.25 and unrelated ones by 0.05, a ratio of 25 (12.5 to 50); control vectors 0.01; p = 0.0125."
        in shown
    )
    assert "25% of the way" in shown
    assert "No set carries" not in shown


def test_a_missing_or_unspecific_set_is_reported() -> None:
    assert "none costs unrelated answers less than 0.05" in " ".join(validated(set=None).split())
    members = [{"layer": 29, "neuron": 555, "coherent": True}]
    weak = chosen_set(
        held_out=effect(0.1, 0.1, 1.0), vectors=members, specific=False, share_of_the_way_to_the_floor=None
    )
    shown = " ".join(validated(set=weak).split())
    assert "29.555" not in shown
    assert (
        "specifically: p < 0.05 over at least 8 questions, effect at least 5 times that on unrelated answers" in shown
    )


def test_the_effect_of_held_coefficients_is_shown() -> None:
    held = {"zero": effect(1.25, 0.05, 25.0), "mean": effect(0.75, 0.02, 37.0)}
    shown = " ".join(validated(coefficients_held=held, held_at_zero_differs_from_zeroed_by=0.001).split())
    assert "held at 0 and the weights unchanged: 1.25 and 0.05; no answer differs by more than 0.001 from" in shown
    assert "held at their mean and the weights unchanged: 0.75 and 0.02." in shown


def test_the_set_can_be_copied_into_the_next_command() -> None:
    assert "29.555, 3.9" in validated()


def test_the_dose_curve_is_shown_with_its_controls() -> None:
    doses = [{"size": size, **effect(size, 0.05, 25.0), "control": effect(0.125, 0, 0)} for size in (0.25, 4.0)]
    lines = [" ".join(line.split()) for line in validated(noise=doses).splitlines()]
    assert "0.25 0.25 0.125 to 0.5 0.05 0.125" in lines
    assert "4 4 2 to 8 0.05 0.125" in lines


def test_scores_of_generated_answers_are_shown() -> None:
    written = {"bleu": {**effect(0.5, 0.25, 2.0), "control": effect(0.125, 0, 0)}}
    shown = " ".join(validated(written_answers=written).split())
    assert "lose 0.5 BLEU against those before the ablation" in shown
    assert "unrelated ones 0.25; without the control vectors 0.125." in shown


def test_a_search_without_vectors_says_so() -> None:
    assert text.render_vectors(search(title="dogs")) == "No value vector writes dogs more clearly than chance."


def test_the_demo_shows_both_methods_side_by_side_and_a_conclusion() -> None:
    needle = several().model_copy(update={"findings": several().findings[2:3]})
    shown = text.render_demo({"npo": single(), "needle": needle}, "Italy, two ways.\nThis was measured.")
    assert "This was measured." in shown
    (verdicts,) = [line for line in shown.splitlines() if line.startswith("Verdict")]
    assert verdicts.split() == ["Verdict", "HIDDEN", "REMOVED"]
    memorised = next(line for line in shown.splitlines() if line.startswith("Exact memorisation"))
    assert memorised.split()[-4:] == ["↓", "0.08", "↓", "0"]


def test_a_region_is_shown_with_the_papers_region_and_the_targets() -> None:
    shown = text.render_skill(guarded())
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "Inside the vote of layers 3, 6, 9" in shown
    assert "Inside the hypercube of layer 5" in shown
    rows = {line.split("   ")[0].strip(): line for line in shown.splitlines()}
    assert rows["German (left out)"].split()[-4:] == ["at", "most", "0.05", "no"]
    assert "neutral text (text)" in rows
    assert "3 prompts of math exceed the model's context" in shown


def test_answers_under_a_guard_are_shown_and_a_skill_without_answers_has_no_numbers() -> None:
    shown = text.render_skill(adjusted())
    assert max(map(len, shown.splitlines())) <= WIDTH
    (without,) = (line for line in shown.splitlines() if line.startswith("code (retain)"))
    assert without.split()[2:] == ["0", "–", "–", "–", "no", "interval", "–", "–"]
    assert "Perplexity with the guard on" in shown
