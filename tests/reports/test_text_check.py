"""Terminal text of check, plan and verify: all fields of the records appear, no word that may be copied is broken."""

from __future__ import annotations

import sys

import pytest

from audit.result import Check, Difference, FileCheck, PathCheck, Plan, Planned, PlannedAttack, Signature, Verification
from reports.text import render_check, render_plan, render_verification
from reports.text.layout import WIDTH
from tests.reports.test_text import Terminal

REASON = "no tokenizer is next to the weights; pass its folder with --tokenizer"
ROWS = (
    Planned("weight_change", None, None),
    Planned("perplexity", "italy", None),
    Planned("bleu", "italy", REASON),
    Planned("rouge_l", "italy", REASON),
)
PLAN = Plan(
    architecture="llama",
    parameters=10_576,
    notes=["a note"],
    metrics=list(ROWS),
    bytes_to_read=88_640,
    forward_tokens=25_030,
    generated_tokens=1_728,
    trained_tokens=512,
    seconds=0.2,
    memory_bytes=400_000_000,
    attacks=[PlannedAttack("relearning", "relearning", 72.0, 2_000_000_000)],
)
SOUND = PathCheck(
    path="base",
    format="safetensors",
    files=(FileCheck("model.safetensors", 44_320, "4c" * 32),),
    tensors=20,
    parameters=10_576,
    largest=5_120,
    dtypes=("float32",),
    family="llama",
    sizes={"n_layers": 2},
    config=True,
)


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))


def test_a_sound_path_is_described_with_what_an_audit_of_it_could_measure() -> None:
    shown = render_check(Check((SOUND,), ROWS, PLAN, None))
    for part in ("base: sound", "safetensors, float32", "10,576 parameters", "llama (n_layers 2)", "44,320 bytes"):
        assert part in shown
    assert f"sha256 {'4c' * 32}" in shown
    assert "Config        present" in shown
    assert "Tokenizer     not next to the weights" in shown
    assert "this checkpoint and a second version of it" in shown
    assert "Can measure   weight_change, perplexity" in shown
    assert "Cannot        bleu, rouge_l" in shown
    assert shown.count(REASON) == 1
    assert "under 1 s: 88.64 kB read; 26,758 tokens run" in shown
    assert "about 0.4 GB" in shown


@pytest.mark.parametrize(
    ("path", "state", "part"),
    [
        (PathCheck("cut", refused="100 bytes short."), "cut: refused", "Refused       100 bytes short."),
        (
            PathCheck("wide", format="gguf", comparable=False, differences="d_mlp 40 against 48"),
            "wide: not comparable with the first path",
            "Differs       d_mlp 40 against 48",
        ),
        (
            PathCheck("forged", signatures=(Signature("model.sig", "fails", "a digest differs"),)),
            "forged: does not match its signature",
            "Signature     model.sig fails: a digest differs",
        ),
    ],
    ids=["refused", "incomparable", "forged"],
)
def test_a_problem_is_named_in_the_first_line_and_detailed_below(path: PathCheck, state: str, part: str) -> None:
    shown = render_check(Check((SOUND, path), (), None, path.problem))
    assert state in shown.splitlines()
    assert part in shown
    assert shown.endswith("These checkpoints cannot be audited.")


def test_a_check_of_sound_paths_that_an_audit_would_stop_at_says_why() -> None:
    assert "An audit would stop: the tokenizer is broken" in render_check(
        Check((SOUND,), (), None, "the tokenizer is broken")
    )


def test_a_plan_lists_the_metrics_of_each_concept_and_each_missing_input_once() -> None:
    shown = render_plan(PLAN)
    attacks, weights, concept = shown.split("\n\n")[1:]
    assert attacks.splitlines() == ["Attacks, included above", "  about 72 s    relearning, about 2.0 GB"]
    assert weights.splitlines() == ["Weights", "  Can measure   weight_change"]
    assert concept.splitlines()[:2] == ["Concept italy", "  Can measure   perplexity"]
    assert "Cannot        bleu, rouge_l" in concept
    assert shown.count(REASON) == 1
    for part in (
        "llama",
        "10,576",
        "88.64 kB",
        "25,030 tokens forward, about 1,728 generated",
        "512 tokens",
        "0.4 GB",
        "a note",
    ):
        assert part in shown


def test_a_verification_lists_the_steps_that_held_and_the_first_difference() -> None:
    steps, difference = ("the document is consistent",), Difference("findings[0].verdict", "removed", "hidden")
    shown = render_verification(Verification("r.json", steps, difference, ("a note",)))
    assert shown.splitlines() == [
        "r.json: does not hold",
        "  Verified      the document is consistent",
        "  Difference    findings[0].verdict: recorded removed, found hidden",
        "  Note          a note",
    ]
    assert render_verification(Verification("r.json", steps, None)).startswith("r.json: holds")


def test_a_long_recorded_value_is_shortened() -> None:
    shown = render_verification(Verification("r.json", (), Difference("f", "x " * 500, "y")))
    assert "(1,000 characters), found y" in " ".join(shown.split())


def test_no_line_is_wider_than_the_terminal_unless_a_word_is() -> None:
    shown = render_check(Check((SOUND,), tuple(Planned(f"metric_{i}", None, None) for i in range(40)), PLAN, None))
    assert max(len(line) for line in shown.splitlines()) <= WIDTH
    long = PathCheck("x" * 200, refused="y" * 200)
    assert "y" * 200 in render_check(Check((long,), (), None, "y"))


def test_hostile_paths_and_reasons_cannot_control_the_terminal() -> None:
    path = PathCheck("a\x1b[31m", refused="b\u202e")
    shown = render_check(Check((path,), (), None, "b"))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b[31m" in shown
