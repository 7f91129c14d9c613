"""The figures of a finding's facts: what they show, in numbers that can be read off, and where they are absent."""

from __future__ import annotations

import re
from typing import Any

import pytest

from audit.result import ConditionRecord, FactReading, FactRecord, Finding, ModelReading, NotRun, Residual
from reports import charts
from reports.formatting import decimals
from reports.html import render
from reports.knowledge import MOST_COLUMNS, MOST_FACTS, KnowledgeView, grid_conditions, knowledge_view
from tests.reports.test_html import Page
from tests.sample_knowledge import brought_back, moved, readable, removed
from tests.sample_result import compared, known, sample


def view(finding: Finding) -> KnowledgeView:
    return knowledge_view(finding, "concept")


def condition(name: str, attack: str | None, readable: float | None, **fields: Any) -> ConditionRecord:
    models = [ModelReading(model="base", says=1.0, readable=1.0), ModelReading(model="unlearned", readable=readable)]
    return ConditionRecord(
        condition=name, attack=attack, title=attack or "As it is", dose=name, models=models, **fields
    )


def fact(says: bool | None, rank: float | None, **fields: Any) -> FactRecord:
    reading = FactReading(model="unlearned", condition="as is", says=says, rank=rank)
    about = {"question": "Which?", "answer": "Rome", "type": "city", "subject": "x", "known": True}
    return FactRecord(**{**about, "readings": [reading], **fields})


def finding(**fields: Any) -> Finding:
    return Finding(concept="c", title="C", verdict="hidden", reason="r", would_reverse="w", **fields)


# ---- the facts


def test_every_fact_that_the_base_says_has_a_row_and_the_others_are_counted() -> None:
    shown = view(brought_back())
    assert shown.grid.count('class="hit"') == 28
    assert "28 of 32 facts" in shown.grid_note
    assert shown.facts is not None
    assert len(shown.facts.rows) == 32


def test_facts_of_one_type_stand_together_and_each_model_has_a_panel() -> None:
    drawn = view(readable()).grid
    assert re.findall(r'class="label">([^<]*)<', drawn) == ["city", "job", "pet", "food"]
    assert re.findall(r'class="head">([^<]*)<', drawn) == ["base", "unlearned", "reference"]


def test_the_picture_says_in_words_how_many_facts_each_model_says_and_ranks_first() -> None:
    described = re.search(r"<desc[^>]*>([^<]*)</desc>", view(brought_back()).grid)
    assert described is not None
    assert "unlearned: as it is: 0 said" in described[1]
    says = next(each for each in brought_back().conditions[0].models if each.model == "base").says
    assert says == 1.0
    assert "base: as it is: 28 said, 28 of 28 first" in described[1]


@pytest.mark.parametrize(
    ("says", "rank", "classes"),
    [
        (True, 0.0, ["asked", "k7", "said dark"]),
        (False, 0.0, ["asked", "k7"]),
        (True, 0.4, ["asked", "k1", "said"]),
        (False, 0.6, ["asked"]),
        (False, 0.95, ["asked", "avoided"]),
        (True, None, ["asked", "said"]),
    ],
)
def test_a_said_fact_has_a_disc_and_a_rank_has_a_shade(says: bool, rank: float | None, classes: list[str]) -> None:
    drawn = view(finding(facts=[fact(says, rank)], conditions=[condition("as is", None, 0.0)])).grid
    assert re.findall(r'<path d="M[^"]*" class="([^"]*)"', drawn) == classes


def test_what_was_neither_asked_nor_read_leaves_a_hole() -> None:
    rows = [fact(True, 0.0), fact(None, None), fact(True, 0.0)]
    drawn = view(finding(facts=rows, conditions=[condition("as is", None, 0.0)])).grid
    ground = re.search(r'<path d="([^"]*)" class="asked"', drawn)
    assert ground is not None
    assert ground[1].count("M") == 2


def test_a_hundred_and_sixty_facts_are_small_enough_to_look_at_and_to_send() -> None:
    drawn = view(removed()).grid
    height = float(re.search(r'viewBox="0 0 \S+ (\S+)"', drawn)[1])  # type: ignore[index]
    assert height < 1_200
    assert len(drawn) < 120_000


def test_more_facts_than_can_be_drawn_are_cut_and_said_to_be() -> None:
    rows = [fact(True, 0.0) for _ in range(MOST_FACTS + 5)]
    shown = view(finding(facts=rows, conditions=[condition("as is", None, 0.0)]))
    assert shown.grid.count('class="hit"') == MOST_FACTS
    assert f"first {MOST_FACTS}" in shown.grid_note


def test_of_too_many_conditions_each_attack_shows_its_worst() -> None:
    many = [condition(f"noise: {n}", "noise", n / 100) for n in range(MOST_COLUMNS)]
    many.insert(0, condition("as is", None, 0.9))
    chosen = grid_conditions(finding(conditions=many))
    assert [row.condition for row in chosen] == ["as is", f"noise: {MOST_COLUMNS - 1}"]
    shown = view(finding(facts=[fact(True, 0.0)], conditions=many))
    assert "the condition under which most can be read" in shown.grid_note


# ---- recovery


def test_the_recovery_curve_has_the_models_and_the_controls_and_every_step() -> None:
    first, second = view(readable()).curves
    assert [first.title, second.title] == ["relearning: half of the facts", "relearning: other training"]
    curve, controls = first.chart, second.chart
    assert {"base", "unlearned", "reference", "refusal twin"} <= labels(curve)
    assert {"unlearned", "unlearned, neutral text"} <= labels(controls)
    assert "base" not in labels(controls)
    for steps in (2, 8, 30):
        assert f"unlearned, after {steps} steps: " in curve
    assert curve.count('class="whisker thin s1"') == 8  # as it is and three steps, readable and said


def labels(curve: str) -> set[str]:
    return set(re.findall(r'class="label">([^<]*)<', curve))


def test_what_is_trained_into_a_part_of_the_model_is_drawn_with_the_models() -> None:
    rows = [
        row.model_copy(update={"arm": "half of the facts, low rank"}) if row.arm == "neutral text" else row
        for row in readable().conditions
    ]
    (curve,) = view(readable().model_copy(update={"conditions": rows})).curves
    assert {"base", "unlearned, low rank"} <= labels(curve.chart)


def test_the_peak_of_each_curve_is_listed() -> None:
    table = view(readable()).recovery
    assert table is not None
    assert len(table.rows) == len(readable().recovery) > 3


def test_a_set_that_taught_nothing_says_so_beside_its_peak() -> None:
    first, *others = readable().recovery
    idle = first.model_copy(update={"taught": 0.01, "taught_nothing": True})
    table = view(readable().model_copy(update={"recovery": [idle, *others]})).recovery
    assert table is not None
    said = ["this set taught nothing" in str(row) for row in table.rows]
    assert said == [True, *(False for _ in others)]


def test_numbers_of_the_curve_are_those_of_the_result() -> None:
    curve, *_ = view(brought_back()).curves
    row = next(row for row in brought_back().conditions if row.steps == 30 and row.arm == "half of the facts")
    unlearned = next(each for each in row.models if each.model == "unlearned")
    assert unlearned.says is not None
    assert f"unlearned, after 30 steps: {unlearned.says:.2f}" in curve.chart


def test_attacks_that_do_not_train_are_points_beside_the_curve() -> None:
    drawn = view(brought_back()).attacks
    for row in brought_back().conditions:
        named = f"{row.title}: {row.dose}" if row.attack else "as it is"
        assert (f"<title>{named}</title>" in drawn) == (row.steps is None)


def test_a_curve_needs_two_readings() -> None:
    assert charts.recovery("k", "t", [charts.Curve("base", 0, {0: outcome()})]) == ""


def outcome(value: float | None = 0.5) -> charts.Outcome:
    return charts.Outcome(charts.Estimate(value), charts.Estimate(None))


def test_what_was_not_measured_has_no_marker() -> None:
    drawn = charts.recovery("k", "t", [charts.Curve("unlearned", 1, {0: outcome(), 2: outcome(None), 8: outcome(0.9)})])
    assert "after 2 steps" not in drawn
    assert "after 8 steps: 0.90" in drawn


def test_every_condition_is_in_the_table_behind_the_charts() -> None:
    table = view(readable()).conditions
    assert table is not None
    assert len(table.rows) == len(readable().conditions)
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1


# ---- how much is left


def test_the_residual_is_drawn_with_its_margin_and_its_controls() -> None:
    left = brought_back().residual
    assert left is not None
    assert left.twin is not None
    drawn = view(brought_back()).residual
    labels = {"0: never knew", "1: the base", f"removed: below {left.margin:.2g}", "refusal twin", "would not be seen"}
    assert labels <= set(re.findall(r">([^<]*)</text>", drawn))
    assert f"refusal twin: {left.twin:.2f}" in drawn


def test_zero_is_the_reference_where_answers_may_be_guessed() -> None:
    known = readable().known
    assert known is not None
    assert known.reference
    guessed = readable().model_copy(update={"known": known.model_copy(update={"guessable": True})})
    assert "0: the reference" in view(guessed).residual
    assert "0: never knew" in view(readable()).residual
    contradicted = known.model_copy(update={"guessable": True, "contradicted": True})
    told = "the reference tells them apart"
    assert told in view(readable().model_copy(update={"known": contradicted})).residual_note
    assert told not in view(guessed).residual_note


def test_what_shows_with_parts_of_the_base_stands_beside_what_shows_most() -> None:
    assert (moved().verdict, moved().kind) == ("hidden", "brought back")
    shown = view(moved())
    assert "beside the reference: 1.00" in shown.residual
    assert "relative to the reference, to which the same was done" in shown.residual_note
    assert "beside the reference" not in view(brought_back()).residual


def test_the_residual_as_it_is_stands_beside_the_one_that_shows_most() -> None:
    drawn = view(brought_back()).residual
    left = brought_back().residual
    assert left is not None
    plain = next(share for share in left.shares if share.condition == "as is")
    assert plain.value is not None
    assert left.value is not None
    assert f"as it is: {decimals(plain.value)}" in drawn
    assert f"where most shows: {decimals(left.value)}" in drawn


def test_of_a_removed_finding_what_decided_it_is_drawn() -> None:
    left = removed().residual
    assert left is not None
    assert left.condition == "jailbreaks: persona"
    assert "after jailbreak prompts (persona) at the output" in removed().reason
    assert left.value is not None
    highest = max((share for share in left.shares if share.interval), key=lambda share: share.interval[1])  # type: ignore[index]
    assert highest.value is not None
    drawn = view(removed()).residual
    assert f"where most shows: {decimals(left.value)}" in drawn
    assert f"highest upper bound: {decimals(highest.value)}" in drawn


def test_an_undefined_residual_is_not_drawn_as_0() -> None:
    shown = view(finding(residual=Residual(value=None, twin=0.75, margin=0.2, condition="as is", place="the output")))
    assert 'class="mark s1"' not in shown.residual
    assert 'class="mark s4"' in shown.residual
    assert "is left" not in shown.residual_note


def test_a_share_reads_0_or_1_only_where_it_is() -> None:
    rows = [charts.ShareRow("unlearned", "", 0.9988, (0.004, 1.0), 1)]
    assert "0.9988 (0.004 to 1.00)" in charts.share_line("k", "t", rows, 0.2, "never knew")


# ---- the page


def test_the_verdict_comes_first_then_the_numbers_what_would_reverse_it_and_what_was_not_run() -> None:
    only = known().findings[0]
    text = Page(render(known())).text.split("Skip to the report")[1]
    parts = [
        "it can be brought back",
        only.reason,
        only.note,
        only.would_reverse,
        "not chosen with --attacks",
        "magnitude pruning",
        "How much is left",
        "The facts, one by one",
        "What brings it back",
        "Where it can be read",
        "Does it say it?",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_attacks_that_did_not_run_for_one_reason_share_a_line() -> None:
    rows = [NotRun(attack=name, title=name, model="unlearned", reason="not chosen") for name in ("noise", "pruning")]
    rows.append(NotRun(attack="noise", title="noise", model="twin", reason="out of memory"))
    assert view(finding(not_run=rows)).not_run == [
        ("not chosen", "noise, pruning"),
        ("twin model: out of memory", "noise"),
    ]


def test_each_figure_of_the_facts_has_its_data_behind_it() -> None:
    text = Page(render(compared())).text
    for title in ("Every fact: the data of the picture", "Every condition: the data of these charts"):
        assert title in text


def test_a_result_without_facts_has_none_of_these_figures() -> None:
    shown = view(sample().findings[0])
    assert (shown.residual, shown.grid, shown.curves, shown.attacks) == ("", "", [], "")
    text = Page(render(sample())).text
    assert "How much is left" not in text
    assert "What brings it back" not in text
    assert "Where it can be read" in text


def test_the_layer_of_the_strongest_reading_is_marked() -> None:
    shown = view(known().findings[0]).lens
    assert shown is not None
    assert "after layer 27: true answers are preferred" in shown.note
    assert len(re.findall(r'<line [^>]*class="zero"', shown.chart)) == 2  # zero, and the marked layer


def test_the_numbers_beside_the_residual_fit_into_the_picture() -> None:
    row = charts.ShareRow("as it is", "", -0.04, (-0.123, 0.0045678), 1)
    drawn = charts.share_line("k", "t", [row], 0.2, "never knew")
    shown = "−0.04 (−0.12 to 0.004568)"
    (x,) = re.findall(rf'<text x="([\d.]+)"[^>]*>{re.escape(shown)}</text>', drawn)
    assert float(x) + 6.6 * len(shown) <= 760
