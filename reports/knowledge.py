"""What the models know of a finding's facts, as the figures and tables of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from audit.result import (
    AS_IS,
    ConditionRecord,
    FactReading,
    FactRecord,
    Finding,
    ModelReading,
    Number,
    Residual,
    Share,
)
from reports import charts
from reports.formatting import clip, decimals, integer, number, shorten
from reports.tables import BLANK, Cell, Table, anything, capped, figure, layers_table, text
from reports.wording import READINGS

MODELS: Final = {"base": ("base", 0), "unlearned": ("unlearned", 1), "reference": ("reference", 2)}
TWIN: Final = {"twin": ("refusal twin", 4)}
"""Model -> its name and its style in charts, in the order in which it is shown."""
OTHER_ARMS: Final = (3, 5, 6, 4)
"""Styles of what else the unlearned model is trained on."""
NOTHING_TAUGHT: Final = "this set taught nothing: relearning with it says nothing"
MOST_COLUMNS: Final = 54
"""Columns of the picture of facts, over all models; if there are more, each attack has one."""
MOST_FACTS: Final = 250


@dataclass(frozen=True)
class LensView:
    """The test after every layer: a chart, what it says, and its data."""

    chart: str
    note: str
    table: Table


@dataclass(frozen=True)
class TrainingChart:
    """What one attack that trains brings back; ``title`` says what is trained on."""

    title: str
    chart: str


@dataclass(frozen=True)
class KnowledgeView:
    """Figures and tables of a finding's facts; empty or ``None`` where the result has no such data.

    Attributes:
        not_run: (reason, attacks that did not run for it).
        grid_key: (class of the swatch, meaning).
    """

    not_run: Sequence[tuple[str, str]]
    residual: str
    residual_note: str
    grid: str
    grid_note: str
    grid_key: Sequence[tuple[str, str]]
    facts: Table | None
    curves: Sequence[TrainingChart]
    recovery: Table | None
    attacks: str
    conditions: Table | None
    lens: LensView | None


def knowledge_view(finding: Finding, anchor: str) -> KnowledgeView:
    """The figures, with keys that start with ``anchor``."""
    chosen = grid_conditions(finding)
    shown = [fact for fact in finding.facts if fact.known]
    curves, attacks = _curves(finding, anchor), _attack_rows(finding)
    return KnowledgeView(
        not_run=list(_not_run(finding)),
        residual=_residual(finding, f"{anchor}-residual"),
        residual_note=_residual_note(finding),
        grid=_grid(shown[:MOST_FACTS], chosen, f"{anchor}-facts"),
        grid_note=_grid_note(finding, len(shown), chosen),
        grid_key=charts.fact_key(),
        facts=_facts_table(finding, chosen),
        curves=curves,
        recovery=_recovery_table(finding),
        attacks=charts.attack_rows(
            f"{anchor}-attacks", "Every other condition", attacks, dict({**MODELS, **TWIN}.values())
        ),
        conditions=_conditions_table(finding),
        lens=_lens(finding, f"{anchor}-lens"),
    )


def _not_run(finding: Finding) -> Iterator[tuple[str, str]]:
    """Each reason with its attacks; the model is named where it is not the unlearned one."""
    titles: dict[tuple[str, str], list[str]] = {}
    for each in finding.not_run:
        titles.setdefault((each.model, each.reason), []).append(shorten(each.title, 80))
    for (model, reason), names in titles.items():
        of = "" if model == "unlearned" else f"{shorten(model, 40)} model: "
        yield of + shorten(reason, 300), ", ".join(names)


# ---- how much is left


def _residual(finding: Finding, key: str) -> str:
    left = finding.residual
    if left is None:
        return ""
    zero = "the reference" if finding.known is not None and finding.known.is_relative else "never knew"
    return charts.share_line(key, "How much is left", list(_share_rows(left)), left.margin, zero)


def _share_rows(left: Residual) -> Iterator[charts.ShareRow]:
    """The model as it is, where most shows, where most may be left; then what the attacks can see."""
    style = MODELS["unlearned"][1]
    for label, share in _shares(left).items():
        if share.value is not None:
            where = f"{share.condition}, read at {share.place}, {share.n} facts"
            yield charts.ShareRow(label, where, share.value, share.interval, style)
    if left.twin is not None:
        note = "what the attacks bring back from a base that was trained to refuse: the power of the attacks"
        yield charts.ShareRow("refusal twin", note, left.twin, None, TWIN["twin"][1])
    if left.least_detectable is not None:
        note = "a residual of this size would be seen with probability 0.8, a smaller one less often"
        yield charts.ShareRow("would not be seen", note, left.least_detectable, None, None)


def _shares(left: Residual) -> dict[str, Share]:
    """Label -> a residual. The one that shows most is cross-fitted, so it differs from that of its condition."""
    plain = [share for share in left.shares if share.condition == AS_IS]
    highest = max(left.shares, key=lambda share: share.interval[1] if share.interval else -math.inf, default=None)
    shown = {"as it is": plain[0]} if plain else {}
    shown["where most shows"] = left.most
    if highest is not None and highest not in plain:
        shown["highest upper bound"] = highest
    compared = next((share for share in left.without_null if share.p_value is not None), None)
    return shown if compared is None else {**shown, "beside the reference": compared}


def _residual_note(finding: Finding) -> str:
    left, known = finding.residual, finding.known
    if left is None:
        return ""
    names = {row.condition: _long(row) for row in finding.conditions}
    parts = []
    if left.value is not None:
        bounds = f" (90 % interval {' to '.join(map(decimals, left.interval))})" if left.interval else ""
        parts.append(f"{decimals(left.value)}{bounds} of the base's knowledge is left.")
    how = "as the model is" if left.condition == AS_IS else f"after {_named(left.condition, names)}"
    parts.append(
        f"Read {how}, at {shorten(left.place, 80)}, in {integer(left.n)} facts; the condition is chosen on one half of "
        "the facts and read on the other."
    )
    if known is not None and known.p_value is not None:
        parts.append(f"p = {number(known.p_value)} ({shorten(known.test, 160)}).")
    if known is not None and known.contradicted:
        parts.append(
            "The concept says that answers cannot be guessed, but the reference tells them apart, so it is the zero."
        )
    parts += [_with_parts(share, share.value, names) for share in left.without_null if share.value is not None]
    if not left.calibrated:
        parts.append("The margin is not yet fitted on models whose truth is known.")
    return " ".join(parts)


def _with_parts(share: Share, value: float, names: Mapping[str, str]) -> str:
    compared = (
        f"relative to the reference, to which the same was done, p = {number(share.p_value)}"
        if share.p_value is not None
        else "where a model that never knew shows something too"
    )
    return f"After {_named(share.condition, names)}, it is {decimals(value)}, {compared}."


def _named(condition: str, names: Mapping[str, str]) -> str:
    return shorten(names.get(condition, condition), 120)


# ---- facts against conditions


def grid_conditions(finding: Finding) -> list[ConditionRecord]:
    """The conditions of the picture: all of them if they fit, else the worst of each attack for the unlearned model."""
    every = finding.conditions
    columns = sum(_has(finding, role, row) for role in MODELS for row in every)
    if columns <= MOST_COLUMNS:
        return list(every)
    by_attack: dict[str | None, list[ConditionRecord]] = {}
    for row in every:
        by_attack.setdefault(row.attack, []).append(row)
    return [max(rows, key=lambda row: _or_least(_model(row, "unlearned"))) for rows in by_attack.values()]


def _or_least(reading: ModelReading | None) -> tuple[float, float]:
    """What can be read and what is said, for choosing the worst; nothing measured comes last."""
    if reading is None:
        return -2.0, -2.0
    return (-2.0 if reading.readable is None else reading.readable), (-2.0 if reading.says is None else reading.says)


def _grid(facts: Sequence[FactRecord], chosen: Sequence[ConditionRecord], key: str) -> str:
    ordered = _by_type(facts)
    readings = [{(row.model, row.condition): row for row in fact.readings} for fact in ordered]
    panels = []
    for role, (name, _) in MODELS.items():
        columns = [row for row in chosen if any((role, row.condition) in each for each in readings)]
        cells = [[_cell(each.get((role, row.condition))) for row in columns] for each in readings]
        if columns:
            panels.append(charts.Panel(name, [(row.attack or "", _short(row)) for row in columns], cells))
    rows = [charts.FactRow(fact.type or "no type", fact.answer, f"{fact.question} {fact.answer}") for fact in ordered]
    return charts.fact_grid(key, "The facts, one by one", rows, panels)


def _by_type(facts: Sequence[FactRecord]) -> list[FactRecord]:
    """Facts of one type together, types in the order of the questions; facts without a type last."""
    types = list(dict.fromkeys(fact.type for fact in facts))
    return sorted(facts, key=lambda fact: (fact.type is None, types.index(fact.type)))


def _cell(reading: FactReading | None) -> charts.FactCell:
    return charts.FactCell(None, None) if reading is None else charts.FactCell(reading.says, reading.rank)


def _grid_note(finding: Finding, shown: int, chosen: Sequence[ConditionRecord]) -> str:
    parts = [f"{integer(shown)} of {integer(len(finding.facts))} facts: those that the base says."]
    if shown > MOST_FACTS:
        parts.append(f"The first {integer(MOST_FACTS)} of them are drawn.")
    if len(chosen) < len(finding.conditions):
        parts.append("Of each attack, the condition under which most can be read from the unlearned model.")
    return " ".join(parts)


def _facts_table(finding: Finding, chosen: Sequence[ConditionRecord]) -> Table | None:
    """Each fact under the chosen conditions in the unlearned model; base and reference as they are."""
    keys = [("base", AS_IS), *(("unlearned", row.condition) for row in chosen), ("reference", AS_IS)]
    present = {(row.model, row.condition) for fact in finding.facts for row in fact.readings}
    keys = [key for key in keys if key in present]
    rows = []
    for fact in finding.facts:
        read = {(row.model, row.condition): row for row in fact.readings}
        about = [Cell(shorten(fact.question, 160), "", "w"), text(fact.answer, 60), text(fact.type or "–", 40)]
        about.append(anything(fact.known))
        rows.append([*about, *(_reading_cell(read.get(key)) for key in keys)])
    names = {row.condition: _short(row) for row in chosen}
    heads = [f"{model}, {clip(names.get(condition, condition), 40)}" for model, condition in keys]
    caption = "The facts: ● where the written answer is right, and the rank of the true answer (0 best, 1 last)"
    columns = ["question", "answer", "type", "known to the base", *heads]
    return capped(caption, columns, rows, len(rows)) if rows else None


def _reading_cell(reading: FactReading | None) -> Cell:
    if reading is None or (reading.says is None and reading.rank is None):
        return BLANK
    said = "●" if reading.says else ""
    if reading.rank is None:
        return Cell(said or "–", "", "n")
    rank = f"{reading.rank:.2f}"
    return Cell(f"{said} {rank}", rank, "n") if said else Cell(rank, "", "n")


# ---- what attacks bring back


def _curves(finding: Finding, anchor: str) -> list[TrainingChart]:
    """Two charts for each attack that trains: every model on what it trains on first, then its controls.

    What is trained into a part of the model is drawn with the first.
    """
    trained = [row for row in finding.conditions if row.attack is not None and row.steps is not None]
    drawn: list[TrainingChart] = []
    for attack, title in dict.fromkeys((row.attack, row.title) for row in trained):
        rows: dict[str, list[ConditionRecord]] = {}
        for row in (row for row in trained if row.attack == attack):
            rows.setdefault(row.arm, []).append(row)
        first, *others = rows
        parts = [arm for arm in others if arm.startswith(f"{first}, ")]
        models = [
            charts.Curve(name, style, _points(finding, rows[first], role))
            for role, (name, style) in {**MODELS, **TWIN}.items()
            if _has(finding, role)
        ]
        unlearned = [curve for curve in models if curve.style == MODELS["unlearned"][1]]
        named = {arm: arm.removeprefix(f"{first}, ") for arm in parts}
        controls = {arm: arm for arm in others if arm not in parts}
        for begun, arms, of in ((models, named, first), (unlearned, controls, "other training")):
            curves = begun + [
                charts.Curve(f"unlearned, {clip(name, 20)}", style, _points(finding, rows[arm], "unlearned"))
                for (arm, name), style in zip(arms.items(), OTHER_ARMS, strict=False)
            ]
            if begun is models or arms:
                heading = f"{shorten(title, 60)}: {shorten(of, 60)}"
                drawn.append(
                    TrainingChart(heading, charts.recovery(f"{anchor}-recovery-{len(drawn)}", heading, curves))
                )
    return [each for each in drawn if each.chart]


def _recovery_table(finding: Finding) -> Table | None:
    """The peak of every curve, and the steps to half of what the base shows."""
    names = {role: name for role, (name, _) in {**MODELS, **TWIN}.items()}
    rows = [
        [
            text(f"{each.attack}: {each.arm}", 80),
            text(names.get(each.model, each.model), 40),
            figure(_rounded(each.peak)),
            anything(each.peak_steps),
            anything(each.steps_to_half),
            text(NOTHING_TAUGHT, 80) if each.taught_nothing else figure(_rounded(each.taught)),
        ]
        for each in finding.recovery
    ]
    caption = "What training brings back: how well the facts can be read at best (0 chance, 1 all first)"
    columns = [
        "trained on",
        "model",
        "peak",
        "after steps",
        "steps to half of the base's",
        "share of its own loss that went",
    ]
    return capped(caption, columns, rows, len(rows)) if rows else None


def _points(finding: Finding, rows: Sequence[ConditionRecord], role: str) -> dict[int, charts.Outcome]:
    """Steps -> what the model knows then; 0 for the model as it is."""
    plain = [row for row in finding.conditions if row.attack is None]
    found = {row.steps or 0: _model(row, role) for row in (*plain, *rows)}
    return {steps: _outcome(reading) for steps, reading in found.items() if reading is not None}


def _attack_rows(finding: Finding) -> list[charts.AttackRow]:
    """Every condition that is not a step of training; the models as they are first."""
    names = {role: name for role, (name, _) in {**MODELS, **TWIN}.items()}
    return [
        charts.AttackRow(_long(row), {names[each.model]: _outcome(each) for each in row.models if each.model in names})
        for row in finding.conditions
        if row.steps is None
    ]


def _outcome(reading: ModelReading) -> charts.Outcome:
    return charts.Outcome(
        charts.Estimate(reading.readable, reading.readable_interval),
        charts.Estimate(reading.says, reading.says_interval),
    )


def _conditions_table(finding: Finding) -> Table | None:
    """Every number of the charts, and the exchange test of each condition."""
    roles = {role: name for role, (name, _) in {**MODELS, **TWIN}.items() if _has(finding, role)}
    rows = []
    for row in finding.conditions:
        cells = [cell for role in roles for cell in _model_cells(_model(row, role))]
        rows.append([text(_long(row), 120), *cells, figure(row.nats), figure(row.z), figure(row.p_value)])
    numbers = [f"{name}: {what}" for name in roles.values() for what in (charts.SAYS, charts.READABLE)]
    caption = "Every condition: share of the facts that is said, and how well they can be read (0 chance, 1 all first)"
    columns = ["condition", *numbers, "unlearned: nats", "z", "p, corrected"]
    return capped(caption, columns, rows, len(rows)) if rows else None


def _model_cells(reading: ModelReading | None) -> list[Cell]:
    if reading is None:
        return [BLANK, BLANK]
    return [figure(_rounded(reading.says)), figure(_rounded(reading.readable))]


def _rounded(value: Number) -> Number:
    return None if value is None else round(value, 3)


# ---- where it can be read


def _lens(finding: Finding, key: str) -> LensView | None:
    """Of the first measurement that was read after every layer."""
    for row in finding.measurements:
        if row.lens is None or not row.layers:
            continue
        unit = shorten(row.layers_unit or row.unit, 80)
        p_value = "" if row.lens.p_value is None else f", p = {number(row.lens.p_value)}"
        return LensView(
            charts.lines(key, "Where it can be read", unit, row.layers, axis_label=unit, marked=row.lens.layer),
            f"The reading is strongest after layer {row.lens.layer}: {READINGS[row.lens.reading]}{p_value}.",
            layers_table("Where it can be read: the data of the chart", row.layers),
        )
    return None


# ---- records


def _has(finding: Finding, role: str, row: ConditionRecord | None = None) -> bool:
    """Whether the model was read under a condition, or under any."""
    rows: Sequence[ConditionRecord] = finding.conditions if row is None else [row]
    return any(_model(each, role) is not None for each in rows)


def _model(row: ConditionRecord, role: str) -> ModelReading | None:
    return next((each for each in row.models if each.model == role), None)


def _short(row: ConditionRecord) -> str:
    """Its name for a narrow place; for a step of training, the step and what is trained on."""
    if row.attack is None:
        return "as it is"
    return shorten(row.condition if row.steps is None else f"{row.steps} steps: {row.arm}", 60)


def _long(row: ConditionRecord) -> str:
    return "as it is" if row.attack is None else f"{shorten(row.title, 60)}: {shorten(row.dose, 60)}"
