"""A verdict with its reason and its measurements; and the record of a test that did not run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from audit.result.knowledge import ConditionRecord, FactRecord, Kind, Known, Recovery, Residual
from audit.result.measurement import Measurement, Record

Verdict = Literal["removed", "hidden", "present", "gated", "destroyed", "inconclusive"]


class NotChecked(Record):
    metric: str
    concept: str | None
    reason: str


class NotRun(Record):
    """An attack under which a model's facts were not read, and the reason."""

    attack: str
    title: str
    model: str
    reason: str


class Finding(Record):
    """The verdict on one topic, its reason, and the result that would have reversed it.

    Attributes:
        concept: ``None`` for a verdict on the pair as a whole.
        kind: of hidden knowledge.
        note: the numbers behind the reason, for researchers.
        error_rate: how often the exam's models got this verdict wrongly; empty where the exam grades it not.
        known: the facts that count and the test that decides; ``None`` if no answer could be checked.
        residual: how much is left; ``None`` if it was not measured.
        facts, conditions: the facts one by one, and the models under each condition.
        recovery: what each attack that trains brings back, by arm and model.
        not_run: attacks under which they were not read.
    """

    concept: str | None
    title: str
    verdict: Verdict
    reason: str
    would_reverse: str
    kind: Kind | None = None
    note: str = ""
    error_rate: str = ""
    known: Known | None = None
    residual: Residual | None = None
    facts: list[FactRecord] = Field(default_factory=list)
    conditions: list[ConditionRecord] = Field(default_factory=list)
    recovery: list[Recovery] = Field(default_factory=list)
    not_run: list[NotRun] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)

    def __getitem__(self, metric: str) -> Measurement:
        for measurement in self.measurements:
            if measurement.metric == metric:
                return measurement
        raise KeyError(metric)
