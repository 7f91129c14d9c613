"""What the report says in words: verdicts, directions, what a number means beside the base's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.result import AuditResult, Finding, Measurement, Verdict
from reports.formatting import integer, interval, number, shorten


@dataclass(frozen=True)
class VerdictWords:
    """A verdict as a label, as a count, as a headline about one concept, and what it means."""

    label: str
    counted: str
    headline: str
    meaning: str


VERDICTS: Final[dict[Verdict, VerdictWords]] = {
    "removed": VerdictWords(
        "Removed",
        "removed",
        "{} was removed, as far as every test that ran can tell.",
        "The weights no longer hold it, as far as every test that ran can tell.",
    ),
    "hidden": VerdictWords(
        "Hidden",
        "hidden",
        "{} was hidden, not removed.",
        "It does not say it, yet the knowledge can be read out of the model.",
    ),
    "present": VerdictWords("Present", "still present", "{} is still present.", "The model still says it."),
    "gated": VerdictWords(
        "Gated",
        "gated",
        "{} is gated: the weights are the base's.",
        "The weights are the base's; the protection lies outside them.",
    ),
    "destroyed": VerdictWords(
        "Destroyed",
        "destroyed",
        "The model is broken, so its silence on {} proves nothing.",
        "The model is broken, so its silence proves nothing.",
    ),
    "inconclusive": VerdictWords(
        "Inconclusive",
        "could not be decided",
        "The evidence does not decide about {}.",
        "The evidence does not decide; the sentence names what would.",
    ),
}

WHOLE_PAIR: Final[dict[Verdict, str]] = {
    "gated": "The weights are the base's; any protection lies outside them.",
    "destroyed": "The model is broken.",
    "inconclusive": "What changed in the weights is measured; whether knowledge is left was not asked.",
}

HIGHER: Final = {
    "knowledge": "higher means more of the knowledge is kept",
    "forgetting": "higher means more is forgotten",
    "protection": "higher means the protection holds more often",
    "utility": "higher means a healthier model",
    "change": "higher means more was changed",
    "none": "no order of better and worse",
}

MOVED: Final = {
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
        return "Nothing was judged."
    if len(findings) > 1:
        counted = Counter(finding.verdict for finding in findings)
        parts = [
            f"{integer(counted[verdict])} {words.counted}" for verdict, words in VERDICTS.items() if counted[verdict]
        ]
        return f"Of {integer(len(findings))} concepts: {', '.join(parts)}."
    (only,) = findings
    if only.concept is None:
        return WHOLE_PAIR.get(only.verdict, VERDICTS[only.verdict].meaning)
    return VERDICTS[only.verdict].headline.format(name_of(only, 80))


def name_of(finding: Finding, longest: int = 120) -> str:
    return shorten(finding.title or finding.concept or "(no name)", longest)


def counts(result: AuditResult) -> list[tuple[Verdict | None, int, str]]:
    """(verdict, how many, in words): the main ones always, others where they occur, last what was not checked."""
    counted = Counter(result.verdicts())
    always = ("removed", "hidden", "present", "inconclusive")
    shown: list[tuple[Verdict | None, int, str]] = [
        (verdict, counted[verdict], words.counted)
        for verdict, words in VERDICTS.items()
        if verdict in always or counted[verdict]
    ]
    missing = len(result.not_checked)
    return [*shown, (None, missing, "test not run" if missing == 1 else "tests not run")]


@dataclass(frozen=True)
class Reading:
    """What one measurement says, short: a sign, its value, and words that set it beside its base."""

    sign: str
    value: str
    exact: str
    word: str
    kind: str
    base: str = ""


def read(measurement: Measurement) -> Reading:
    """``kind`` is one of missing, plain, same, unclear, moved."""
    value, base = measurement.value, measurement.base
    if value is None:
        return Reading("?", "", "", "not measured", "missing")
    shown = (number(value), repr(value))
    if base is None:
        return Reading("", *shown, "no base value", "plain")
    if value == base:
        return Reading("=", *shown, "as in the base", "same", number(base))
    up = value > base
    sign, word = "↑" if up else "↓", MOVED[measurement.direction][up]
    bounds = measurement.interval
    if bounds is not None and bounds[0] <= base <= bounds[1]:
        return Reading("≈", *shown, "no clear change", "unclear", number(base))
    return Reading(sign, *shown, word, "moved", number(base))


def sentence(measurement: Measurement) -> str:
    """The measurement in one or two plain sentences."""
    if measurement.value is None:
        return f"Not measured: {shorten(measurement.not_measured or 'no reason was recorded', 600)}"
    found = read(measurement)
    value = found.value + (f" (interval {interval(measurement.interval)})" if measurement.interval else "")
    if measurement.base is None:
        return f"{value}; the base has no value to compare with.{against_control(measurement)}"
    if found.kind == "same":
        return f"{value}, exactly as in the base.{against_control(measurement)}"
    word = {"unclear": "no clear change, since the base lies inside the interval"}.get(found.kind, found.word)
    return f"{value} where the base has {number(measurement.base)}: {word}.{against_control(measurement)}"


def against_control(measurement: Measurement) -> str:
    """Whether the number can be told from the same number where the knowledge in question plays no part."""
    control, bounds = measurement.control, measurement.interval
    if control is None or control.value is None:
        return ""
    named = f" The control ({shorten(control.name, 80)}) has {number(control.value)}"
    if bounds is None:
        return f"{named}."
    inside = bounds[0] <= control.value <= bounds[1]
    return f"{named}, {'inside the interval: not told apart' if inside else 'outside the interval'}."


def controls_of(findings: Sequence[Finding]) -> int:
    """How many measurements stand beside a control value."""
    return sum(found.control is not None for finding in findings for found in finding.measurements)
