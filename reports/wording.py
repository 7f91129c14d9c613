"""Verdicts and measurements in words: labels, headlines, and what a number means compared with the base's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.result import AS_IS, AuditResult, Finding, Kind, Measurement, Reading, TensorChange, Verdict, Weights
from reports.formatting import integer, interval, number, percent, shorten


@dataclass(frozen=True)
class VerdictText:
    """One verdict as a label, in a count ("2 still present"), as a headline about one concept, and its meaning."""

    label: str
    counted: str
    headline: str
    meaning: str


VERDICTS: Final[dict[Verdict, VerdictText]] = {
    "removed": VerdictText(
        "Removed",
        "removed",
        "{} was removed, as far as the attacks can tell.",
        "Every attack ran, and what is left is shown to be below the margin.",
    ),
    "hidden": VerdictText(
        "Hidden",
        "hidden",
        "{} was hidden, not removed.",
        "The model does not say it, but the knowledge can be read out of it or brought back.",
    ),
    "present": VerdictText("Present", "still present", "{} is still present.", "The model still says it."),
    "gated": VerdictText(
        "Gated",
        "gated",
        "{} is gated: the weights are identical to the base.",
        "The weights are identical to the base; the protection is outside them.",
    ),
    "destroyed": VerdictText(
        "Destroyed",
        "destroyed",
        "The model is broken, so its silence on {} proves nothing.",
        "The model is broken, so its silence proves nothing.",
    ),
    "inconclusive": VerdictText(
        "Inconclusive",
        "undecided",
        "The evidence does not decide whether {} was removed.",
        "The evidence does not decide; the reason says what would.",
    ),
}

KINDS: Final[dict[Kind, VerdictText]] = {
    "readable": VerdictText(
        "Hidden, readable",
        "hidden",
        "{} was hidden, not removed: it can still be read.",
        "The model does not say it, but as it is, without any attack, it tells the true answers from others.",
    ),
    "brought back": VerdictText(
        "Hidden, brought back",
        "hidden",
        "{} was hidden, not removed: it can be brought back.",
        "The model does not say it, but an attack that did not see the answers brings them back.",
    ),
    "inverted": VerdictText(
        "Hidden, inverted",
        "hidden",
        "{} was hidden, not removed: the true answers are avoided.",
        "The model ranks the true answers below others, so that whoever knows the possible answers can exclude those.",
    ),
}
"""The verdict ``hidden`` by the way in which the knowledge shows."""

PAIR_HEADLINES: Final[dict[Verdict, str]] = {
    "gated": "The weights are identical to the base; any protection is outside them.",
    "destroyed": "The model is broken.",
    "inconclusive": "The change of the weights was measured; no concept was tested.",
}

MOST_NAMES: Final = 5
"""Tensors that are named in a sentence."""

READINGS: Final[dict[Reading, str]] = {
    "none": "true answers are not told apart from others",
    "readable": "true answers are preferred to others of their type",
    "inverted": "true answers are avoided",
}

HIGHER: Final = {
    "knowledge": "higher means more of the knowledge is kept",
    "forgetting": "higher means more is forgotten",
    "protection": "higher means the protection holds more often",
    "utility": "higher means a healthier model",
    "change": "higher means more was changed",
    "none": "neither direction is better",
}

CHANGES: Final = {  # (lower than the base, higher)
    "knowledge": ("less kept", "more kept"),
    "forgetting": ("less forgotten", "more forgotten"),
    "protection": ("holds less often", "holds more often"),
    "utility": ("less healthy", "healthier"),
    "change": ("less changed", "changed"),
    "none": ("lower", "higher"),
}


def headline(result: AuditResult) -> str:
    """The verdict of the whole audit in one sentence."""
    findings = result.findings
    if not findings:
        return "No verdict."
    if len(findings) > 1:
        counted = Counter(finding.verdict for finding in findings)
        parts = [
            f"{integer(counted[verdict])} {text.counted}" for verdict, text in VERDICTS.items() if counted[verdict]
        ]
        return f"Of {integer(len(findings))} concepts: {', '.join(parts)}."
    (only,) = findings
    if only.concept is None:
        return PAIR_HEADLINES.get(only.verdict, text_of(only).meaning)
    return text_of(only).headline.format(name_of(only, 80))


def text_of(finding: Finding) -> VerdictText:
    """The verdict in words, of hidden knowledge by its kind."""
    return KINDS[finding.kind] if finding.kind is not None else VERDICTS[finding.verdict]


def name_of(finding: Finding, longest: int = 120) -> str:
    return shorten(finding.title or finding.concept or "(no name)", longest)


def title_of(measurement: Measurement, longest: int) -> str:
    """The measurement's title, with the condition of the models unless there is none or the unit names it."""
    title, condition = measurement.title or measurement.metric, measurement.condition
    named = condition == AS_IS or condition in measurement.unit
    return shorten(title if named else f"{title} ({condition})", longest)


def counts(result: AuditResult) -> list[tuple[Verdict | None, int, str]]:
    """(verdict, how many, label): the main verdicts always, others if they occur, last the tests that did not run."""
    counted = Counter(result.verdicts())
    always = ("removed", "hidden", "present", "inconclusive")
    shown: list[tuple[Verdict | None, int, str]] = [
        (verdict, counted[verdict], text.counted)
        for verdict, text in VERDICTS.items()
        if verdict in always or counted[verdict]
    ]
    not_run = len(result.not_checked)
    return [*shown, (None, not_run, "test not run" if not_run == 1 else "tests not run")]


def weights_summary(weights: Weights) -> str:
    """How many tensors changed, and which could not be compared."""
    unpaired = [
        f"{integer(len(names))} of the {role} ({', '.join(shorten(name, 60) for name in names[:MOST_NAMES])}"
        f"{', ...' if len(names) > MOST_NAMES else ''})"
        for role, names in (("base", weights.only_base), ("unlearned model", weights.only_unlearned))
        if names
    ]
    if not unpaired:
        return _changed(weights)
    return f"{_changed(weights)} Without a counterpart of the same name and shape: {', '.join(unpaired)}."


def _changed(weights: Weights) -> str:
    changed, total = weights.changed_tensors, weights.total_tensors
    if not changed:
        none = f"None of the {integer(total)} tensors differs"
        if weights.equal_at_coarser is not None:
            return f"{none} after rounding to {weights.equal_at_coarser}, the coarser of the two number formats."
        return f"{none}: the weights are identical bit for bit." if weights.identical else f"{none}."
    fraction = weights.changed_fraction
    share = f" ({percent(fraction)})" if fraction is not None else ""
    return f"{integer(changed)} of {integer(total)} tensors differ{share}."


def most_changed(weights: Weights) -> list[TensorChange]:
    """The tensors that changed, those that changed most relative to the base first."""
    return sorted((row for row in weights.per_tensor if row.changed), key=_size_of_change, reverse=True)


def _size_of_change(row: TensorChange) -> float:
    """Relative to the base; infinite where the base is zero, and 0 where no norm is defined."""
    if row.relative_change is None:
        return math.inf if row.l2 else 0.0
    return row.relative_change


@dataclass(frozen=True)
class BaseComparison:
    """The unlearned model's number against the base's.

    Attributes:
        sign: one character: higher, lower, no clear change, equal, not measured; empty if the base has no number.
        value, exact, base: the numbers as shown, and the unlearned model's in full.
        text: the comparison in two or three words.
        kind: ``"missing"``, ``"plain"`` (no base), ``"same"``, ``"unclear"`` or ``"moved"``.
    """

    sign: str
    value: str
    exact: str
    text: str
    kind: str
    base: str = ""


def compare_to_base(measurement: Measurement) -> BaseComparison:
    value, base = measurement.value, measurement.base
    if value is None:
        return BaseComparison("?", "", "", "not measured", "missing")
    shown = (number(value), repr(value))
    if base is None:
        return BaseComparison("", *shown, "no base value", "plain")
    if value == base:
        return BaseComparison("=", *shown, "as in the base", "same", number(base))
    bounds = measurement.interval
    if bounds is not None and bounds[0] <= base <= bounds[1]:
        return BaseComparison("≈", *shown, "no clear change", "unclear", number(base))
    is_higher = value > base
    text = CHANGES[measurement.direction][is_higher]
    return BaseComparison("↑" if is_higher else "↓", *shown, text, "moved", number(base))


def sentence(measurement: Measurement) -> str:
    """The measurement, its base and its control in one or two sentences; its own words if it has some."""
    if measurement.value is None:
        return f"Not measured: {shorten(measurement.not_measured or 'no reason was recorded', 600)}"
    if measurement.summary is not None:
        return shorten(measurement.summary, 600)
    comparison = compare_to_base(measurement)
    value = comparison.value + (f" (interval {interval(measurement.interval)})" if measurement.interval else "")
    further = _own_test(measurement) + _against_control(measurement)
    if comparison.kind == "plain":
        return f"{value}; the base has no value to compare with.{further}"
    if comparison.kind == "same":
        return f"{value}, exactly as in the base.{further}"
    unclear = "no clear change, the base is inside the interval"
    change = unclear if comparison.kind == "unclear" else comparison.text
    return f"{value}; base {comparison.base}: {change}.{further}"


def _own_test(measurement: Measurement) -> str:
    """The p-value, and what the test of the true answers finds."""
    found = "" if measurement.reading is None else f" {READINGS[measurement.reading].capitalize()}"
    if measurement.p_value is None:
        return f"{found}." if found else ""
    return f"{found} (p = {number(measurement.p_value)})." if found else f" p = {number(measurement.p_value)}."


def _against_control(measurement: Measurement) -> str:
    """Whether the interval excludes the control, which has the same number where the knowledge plays no part."""
    control, bounds = measurement.control, measurement.interval
    if control is None or control.value is None:
        return ""
    named = f" The control ({shorten(control.name, 80)}) has {number(control.value)}"
    if bounds is None:
        return f"{named}."
    inside = bounds[0] <= control.value <= bounds[1]
    return f"{named}, {'inside the interval: no clear difference' if inside else 'outside the interval'}."


def with_control(findings: Sequence[Finding]) -> int:
    """How many measurements have a control value."""
    return sum(measurement.control is not None for finding in findings for measurement in finding.measurements)
