"""Terminal summary of one audit: verdict by verdict, with the numbers behind it and the tests that did not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from audit.result import AuditResult, Finding, Measurement, ModelReading, TensorChange, Weights
from reports.formatting import integer, interval, moment, number, shorten
from reports.text.layout import number_or_dash, print_indented, print_labelled, printed, share_or_dash, table
from reports.wording import compare_to_base, headline, most_changed, name_of, text_of, title_of, weights_summary

TITLE: Final = 60
"""Longest title of a test in a table."""
MODELS: Final = ("base", "unlearned", "reference")
"""Models of the table of conditions."""
MOST_LAYERS: Final = 3
MOST_TENSORS: Final = 5
MOST_THEMES: Final = 8


def render(result: AuditResult) -> str:
    return printed(lambda console: _result(console, result))


def _result(console: Console, result: AuditResult) -> None:
    subjects = result.subjects
    console.print(headline(result))
    console.print(f"{shorten(subjects.unlearned.path, 80)} against {shorten(subjects.base.path, 80)}")
    for finding in result.findings:
        _finding(console, finding)
    console.print()
    for place, line in enumerate(weights_lines(result.weights)):
        print_labelled(console, "" if place else "Weights", line)
    print_labelled(console, "Not checked", not_checked(result))
    print_labelled(console, "Ran", f"{moment(result.run.started)}, seed {result.run.seed}, {result.run.device}")


def _finding(console: Console, finding: Finding) -> None:
    console.print()
    console.print(f"{text_of(finding).label.upper()}  {name_of(finding, 70)}")
    print_indented(console, shorten(finding.reason, 2_000))
    if finding.note:
        print_indented(console, shorten(finding.note, 2_000))
    if finding.error_rate:
        print_indented(console, shorten(finding.error_rate, 1_000))
    print_indented(console, f"Would reverse it: {shorten(finding.would_reverse, 2_000)}")
    if finding.conditions:
        console.print()
        console.print(Padding(conditions_table(finding), (0, 0, 0, 2)))
    measured = [measurement for measurement in finding.measurements if measurement.value is not None]
    if measured:
        console.print()
        console.print(Padding(measurements_table(measured), (0, 0, 0, 2)))
    for reason, titles in _not_measured(finding).items():
        print_indented(console, f"Not measured, {reason}: {'; '.join(titles)}")


def _not_measured(finding: Finding) -> dict[str, list[str]]:
    """Reason -> titles of the tests that could not run because of it."""
    reasons: dict[str, list[str]] = {}
    for measurement in finding.measurements:
        if measurement.value is None:
            reason = shorten(measurement.not_measured or "no reason recorded", 200)
            reasons.setdefault(reason, []).append(title_of(measurement, TITLE))
    return reasons


def conditions_table(finding: Finding) -> Table:
    """One row a condition: for each model the share of facts it says and how well they can be read, and the p-value."""
    read = {each.model for row in finding.conditions for each in row.models}
    models = [model for model in MODELS if model in read]
    rows = table(["facts: says / reads", *models, "p"], text_columns=1)
    for row in finding.conditions:
        name = "as it is" if row.attack is None else f"{row.title}: {row.dose}"
        numbers = [_says_and_reads(row.of(model)) for model in models]
        rows.add_row(shorten(name, TITLE), *numbers, number_or_dash(row.p_value))
    return rows


def _says_and_reads(reading: ModelReading | None) -> str:
    return "–" if reading is None else f"{share_or_dash(reading.says)} / {share_or_dash(reading.readable)}"


def measurements_table(measurements: Sequence[Measurement]) -> Table:
    """One row a measurement: base, unlearned with its interval, control, p-value."""
    rows = table(["test", "base", "unlearned", "interval", "control", "p"], text_columns=1)
    for measurement in measurements:
        comparison = compare_to_base(measurement)
        rows.add_row(
            title_of(measurement, TITLE),
            number_or_dash(measurement.base),
            f"{comparison.sign} {comparison.value}".strip(),
            interval(measurement.interval) or "–",
            number_or_dash(measurement.control.value if measurement.control else None),
            number_or_dash(measurement.p_value),
        )
    return rows


def weights_lines(weights: Weights) -> Iterable[str]:
    """How much changed, in which layers most (tensors, where layers are unknown), and the changed neurons' themes."""
    yield weights_summary(weights)
    ranked = sorted(weights.per_layer, key=lambda layer: -(layer.relative_change or 0.0))
    most = [layer for layer in ranked[:MOST_LAYERS] if layer.relative_change]
    if most:
        listed = ", ".join(f"{layer.layer} ({number(layer.relative_change or 0.0)})" for layer in most)
        yield f"Most in layers {listed}, relative to the base."
    elif not weights.per_layer:
        tensors = most_changed(weights)
        named = [_named(row) for row in tensors[:MOST_TENSORS]]
        if named:
            yield f"Most in {', '.join(named)}, relative to the base."
    if weights.themes:
        themes = ", ".join(shorten(theme, 30) for theme in weights.themes[:MOST_THEMES])
        yield f"The neurons that changed most write: {themes}"


def _named(row: TensorChange) -> str:
    """A tensor with its relative change, where it has one."""
    change = "" if row.relative_change is None else f" ({number(row.relative_change)})"
    return shorten(row.name, 60) + change


def not_checked(result: AuditResult) -> str:
    """How many tests did not run, and which."""
    if not result.not_checked:
        return "nothing: every test of this version ran"
    names = sorted({shorten(row.metric, 40).replace("_", " ") for row in result.not_checked})
    count = len(result.not_checked)
    return f"{integer(count)} {'test' if count == 1 else 'tests'} ({', '.join(names)}); the report gives the reasons"
