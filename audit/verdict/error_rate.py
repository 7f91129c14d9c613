"""How often the exam's models got a verdict that is wrong for them."""

from __future__ import annotations

from audit.calibration import VERSION, ErrorRate, calibration, error_rates
from audit.knowledge.summary import Summary

EXAM = "In the exam on small models whose truth is known (docs/exam.md)"
OTHER_VERSION = " It was counted with another version of this audit."


def error_rate(verdict: str, summary: Summary | None) -> str:
    """One sentence; empty where the exam does not grade the verdict, as where the weights alone decided."""
    if summary is None:
        return ""
    rates = error_rates(verdict, bool(summary.known.reference))
    if not rates:
        return ""
    compared = "with a reference" if rates[0].reference else "without a reference"
    counted = f"{EXAM}, {compared}, it was given to {'; to '.join(map(_counted, rates))}."
    return counted if calibration().tested.get("version") == VERSION else counted + OTHER_VERSION


def _counted(rate: ErrorRate) -> str:
    return f"{rate.wrong} of {rate.of} models that {rate.models} (95 % interval up to {rate.high:.1%})"
