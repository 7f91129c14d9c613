"""Shared code of the metrics of patching: means over facts and over controls, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from audit.metrics.answers._answers import Mean, mean_of
from audit.metrics.contract import Evidence
from audit.patching.readings import PatchReadings
from audit.result import Cell, Control

NEEDS: Final = frozenset({"tokenizer", "model", "facts", "patching"})
RETAINED: Final = "retained"
CONTROL: Final = "questions that were not to be forgotten"


def patching_of(evidence: Evidence) -> PatchReadings:
    """The readings, which exist if no input is missing."""
    assert evidence.patching is not None
    return evidence.patching


def over_facts(readings: PatchReadings, values: Float[np.ndarray, " n"], seed: int) -> Mean:
    """Mean over the facts whose value is defined."""
    return mean_of(_defined(values[readings.facts]), seed)


def control_of(readings: PatchReadings, values: Float[np.ndarray, " n"], seed: int) -> Control | None:
    """The same over the controls; ``None`` if it is undefined for all of them."""
    mean = mean_of(_defined(values[readings.controls]), seed)
    return None if mean.value is None else Control(name=CONTROL, value=mean.value, interval=mean.interval)


def by_layer(readings: PatchReadings, values: Float[np.ndarray, "n_layers n"]) -> list[float | None]:
    """Mean over the facts after each block."""
    series: list[float | None] = values[:, readings.facts].mean(axis=1).tolist()
    return series


def rows(readings: PatchReadings, columns: Mapping[str, Float[np.ndarray, " n"]]) -> list[dict[str, Cell]]:
    """One row for each fact and control, with these numbers."""
    table = []
    for index, item in enumerate(readings.items):
        row: dict[str, Cell] = {"type": item.type, "subject": item.subject, "answer": item.answer}
        row |= {"control": item.control, **{name: float(values[index]) for name, values in columns.items()}}
        table.append(row)
    return table


def counts(readings: PatchReadings) -> dict[str, Any]:
    """How many questions and forward passes the numbers rest on."""
    return {
        "facts": int(readings.facts.sum()),
        "controls": int(readings.controls.sum()),
        "forward_passes": readings.passes,
    }


def _defined(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    defined: np.ndarray = values[np.isfinite(values)]
    return defined
