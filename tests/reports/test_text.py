"""The terminal's view: verdicts and numbers in 100 columns, in whatever characters the terminal has."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from reports import text
from reports.formatting import number
from tests.sample_guard import adjusted, guarded
from tests.sample_result import hostile, identical, sample, several, single, weights_only

FOUND = {
    "concept": "italy",
    "title": "Italy",
    "screened": 46_080,
    "vectors": [
        {
            "layer": 17,
            "neuron": 203,
            "sign": -1,
            "score": 8.25,
            "p_value": 1e-6,
            "tokens": ["Rome", "[bold]", "\u202e"],
        },
        {
            "layer": 3,
            "neuron": 9,
            "sign": 1,
            "score": 4.5,
            "p_value": 0.01,
            "tokens": ["pasta"],
            "effect": {"target": {"value": 0.125}, "carries": True},
        },
    ],
}


class Terminal(io.StringIO):
    """A stand-in for stdout with an encoding of its own."""

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


def test_every_measured_number_stands_beside_its_base() -> None:
    lines = text.render(single()).splitlines()
    for found in single().findings[0].measurements:
        if found.value is not None and found.base is not None:
            assert [line for line in lines if number(found.value) in line and number(found.base) in line], found.metric


def test_what_was_not_measured_says_why_and_what_was_not_checked_is_counted() -> None:
    shown = flat(text.render(single()))
    assert "Not measured, no vector of the concept passed the screen: Rank of the concept's tokens" in shown
    assert "2 tests (recovery, target token rank)" in shown
    assert "nothing: every test of this version ran" in text.render(single().model_copy(update={"not_checked": []}))


def test_the_weights_line_counts_tensors() -> None:
    assert "210 of 241 tensors differ" in text.render(sample())
    assert "identical bit for bit" in text.render(identical())


@pytest.mark.parametrize("build", [sample, several, identical, weights_only, hostile])
def test_no_line_is_wider_than_100_columns(build: object) -> None:
    assert callable(build)
    assert max(len(line) for line in text.render(build()).splitlines()) <= text.WIDTH


def test_hostile_strings_neither_colour_nor_steer_the_terminal() -> None:
    shown = text.render(hostile())
    assert [char for char in "\x1b\x07\x00\u202e\u200b\ud800\u2028" if char in shown] == []
    assert "[bold red]" in shown
    shown.encode("utf-8")


def test_a_terminal_without_utf8_gets_plain_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal("cp1252"))
    for shown in (text.render(sample()), text.render(hostile()), text.render_demo({"npo": single()}, "Schluß.")):
        assert shown.isascii()
    assert "-7.812" in text.render(sample())


def test_found_vectors_are_listed_with_sign_score_and_tokens() -> None:
    shown = text.vectors_table(FOUND)
    first, second = (line for line in shown.splitlines() if "Rome" in line or "pasta" in line)
    assert first.split()[:5] == ["17", "203", "−", "8.25", "1e-06"]
    assert second.split()[:6] == ["3", "9", "+", "4.5", "0.01", "0.125"]
    assert second.split()[6] == "*"
    assert "[bold] \\u202e" in first


def test_no_digit_gives_way_to_long_tokens() -> None:
    vector = {
        "layer": 29,
        "neuron": 1_437,
        "sign": -1,
        "score": 12.34,
        "p_value": 1.459e-20,
        "effect": {"target": {"value": -0.0123}},
    }
    shown = text.vectors_table(
        {"title": "Italy", "vectors": [vector | {"tokens": [f"token{i}" * 3 for i in range(12)]}]}
    )
    (row,) = [line for line in shown.splitlines() if "token0" in line]
    assert row.split()[:6] == ["29", "1437", "−", "12.34", "1.459e-20", "−0.0123"]
    assert max(len(line) for line in shown.splitlines()) <= text.WIDTH


def effect(target: float, unrelated: float, ratio: float) -> dict[str, Any]:
    values = {"target": target, "unrelated": unrelated, "ratio": ratio}
    return {name: {"value": value, "interval": [value / 2, value * 2]} for name, value in values.items()}


def validated(**changes: Any) -> str:
    chosen = {
        "vectors": [{"layer": 29, "neuron": 555, "coherent": True}, {"layer": 3, "neuron": 9, "coherent": False}],
        "held_out": effect(1.25, 0.05, 25.0),
        "control": effect(0.01, 0.0, 1.0),
        "share_of_the_way_to_the_floor": 0.25,
        "specific": True,
    }
    said = {"questions": {"held_out": 13}, "set": chosen, "coefficients_held": {}, "collateral_limit": 0.05} | changes
    return text.vectors_table({**FOUND, "effect": said})


def test_the_set_that_carries_a_concept_is_told_with_its_cost() -> None:
    shown = " ".join(validated().split())
    assert "Set: 2 vectors, 1 of which write its words." in shown
    assert "fall by 1.25 and unrelated ones by 0.05, 25 times as far (12.5 to 50); control vectors 0.01." in shown
    assert "25% of the way" in shown
    assert "No set carries" not in shown


def test_where_no_set_is_specific_it_is_said() -> None:
    assert "none costs unrelated answers less than 0.05" in " ".join(validated(set=None).split())
    chosen: dict[str, Any] = {"held_out": effect(0.1, 0.1, 1.0), "control": effect(0, 0, 0), "specific": False}
    chosen |= {"vectors": [{"layer": 29, "neuron": 555, "coherent": True}], "share_of_the_way_to_the_floor": None}
    shown = " ".join(validated(set=chosen).split())
    assert "29.555" not in shown
    assert "specifically: at least 5 times as far, and surely more than once." in shown


def test_coefficients_held_are_told_beside() -> None:
    held = {"zero": effect(1.25, 0.05, 25.0), "mean": effect(0.75, 0.02, 37.0)}
    shown = " ".join(validated(coefficients_held=held, held_at_zero_differs_from_zeroed_by=0.001).split())
    assert "held at 0, the weights as they are: 1.25 and 0.05; no answer differs by more than 0.001 from" in shown
    assert "held at their mean, the weights as they are: 0.75 and 0.02." in shown


def test_the_set_can_be_copied_into_the_next_command() -> None:
    assert "29.555, 3.9" in validated()


def test_the_dose_curve_stands_beside_its_controls() -> None:
    doses = [{"size": size, **effect(size, 0.05, 25.0), "control": effect(0.125, 0, 0)} for size in (0.25, 4.0)]
    lines = [" ".join(line.split()) for line in validated(noise=doses).splitlines()]
    assert "0.25 0.25 0.125 to 0.5 0.05 0.125" in lines
    assert "4 4 2 to 8 0.05 0.125" in lines


def test_scores_of_written_answers_are_told_beside() -> None:
    written = {"bleu": {**effect(0.5, 0.25, 2.0), "control": effect(0.125, 0, 0)}}
    shown = " ".join(validated(written_answers=written).split())
    assert "lose 0.5 BLEU against those of before" in shown
    assert "unrelated ones 0.25, without the control vectors 0.125." in shown


def test_finding_nothing_is_said() -> None:
    assert text.vectors_table({"concept": "dogs", "vectors": []}) == (
        "No value vector writes dogs more clearly than chance."
    )


def test_the_demo_sets_both_ways_side_by_side_and_concludes() -> None:
    needle = several().model_copy(update={"findings": several().findings[2:3]})
    shown = text.render_demo({"npo": single(), "needle": needle}, "Italy, two ways.\nThis is what was found.")
    assert "This is what was found." in shown
    (verdicts,) = [line for line in shown.splitlines() if line.startswith("Verdict")]
    assert verdicts.split() == ["Verdict", "HIDDEN", "REMOVED"]
    memorised = next(line for line in shown.splitlines() if line.startswith("Exact memorisation"))
    assert memorised.split()[-4:] == ["↓", "0.08", "↓", "0"]


def test_a_region_is_shown_beside_the_papers_with_what_was_wanted() -> None:
    shown = text.skill_table(guarded())
    assert max(map(len, shown.splitlines())) <= text.WIDTH
    assert "Inside the vote of layers 3, 6, 9" in shown
    assert "Inside the hypercube of layer 5" in shown
    rows = {line.split("   ")[0].strip(): line for line in shown.splitlines()}
    assert rows["German (left out)"].split()[-4:] == ["at", "most", "0.05", "no"]
    assert "neutral text (text)" in rows
    assert "3 prompts of math are beyond the model's context" in shown


def test_answers_under_a_guard_are_shown_and_a_skill_without_any_has_no_numbers() -> None:
    shown = text.skill_table(adjusted())
    assert max(map(len, shown.splitlines())) <= text.WIDTH
    (without,) = (line for line in shown.splitlines() if line.startswith("code (retain)"))
    assert without.split()[2:] == ["0", "–", "–", "–", "no", "interval", "–", "–"]
    assert "Perplexity with the guard on" in shown
