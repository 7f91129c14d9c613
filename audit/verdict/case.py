"""What the rules are given, and what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from audit.attacks import not_run
from audit.knowledge.summary import Summary
from audit.result import ConditionRecord, Kind, Known, Measurement, Recovery, Residual, Verdict
from audit.statistics import Interval, share_interval


@dataclass(frozen=True)
class Case:
    """The input of the rules for one topic, or for the pair as a whole (``title`` is ``None``).

    Attributes:
        measurements: metric -> its measurement of the unmodified models.
        under_attack: measurements under the conditions of attacks.
        summary: what is known of the topic's facts; ``None`` if no answer could be checked.
        identical: whether the two checkpoints have the same parameters, bit for bit.
        equal_at_coarser: the number format to which parameters were rounded for the comparison, if they are equal in it
            and the checkpoints store them in different formats.
        guard: name of the protection served around the weights, if any.
        nonfinite: model -> names of tensors with NaN or infinite values.
        missing: missing input -> the reason.
        not_run: (role, attack) -> the reason why the attack did not run.
        attacked: attacks under which the unlearned model was read, whether or not its facts were.
    """

    title: str | None
    measurements: Mapping[str, Measurement]
    under_attack: Sequence[Measurement] = ()
    summary: Summary | None = None
    identical: bool = False
    guard: str | None = None
    equal_at_coarser: str | None = None
    nonfinite: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    not_run: Mapping[tuple[str, str], str] = field(default_factory=dict)
    attacked: frozenset[str] = frozenset()

    def measured(self, metric: str) -> Measurement | None:
        """The measurement, or ``None`` if it has no value."""
        measurement = self.measurements.get(metric)
        return measurement if measurement is not None and measurement.value is not None else None

    @property
    def residual(self) -> Residual | None:
        return None if self.summary is None else self.summary.residual

    @property
    def known(self) -> Known:
        """The facts that count; only where answers were checked."""
        assert self.summary is not None
        return self.summary.known

    @property
    def missing_attacks(self) -> list[str]:
        """Attacks that ``removed`` needs and that did not run."""
        return not_run(self.known.attacks)

    @property
    def recovery(self) -> Sequence[Recovery]:
        return self.summary.recovery if self.summary is not None else ()

    @property
    def conditions(self) -> Sequence[ConditionRecord]:
        return self.summary.conditions if self.summary is not None else ()

    def said(self, condition: str) -> Said | None:
        """How many of the known facts the unlearned model says under a condition; ``None`` if it was not asked."""
        row = next((row for row in self.conditions if row.condition == condition), None)
        reading = row.of("unlearned") if row is not None else None
        if reading is None or not reading.asked:
            return None
        interval = share_interval(np.arange(reading.asked) < reading.said)
        return None if interval is None else Said(reading.said, reading.asked, interval)


@dataclass(frozen=True)
class Ruling:
    """A verdict, its reason, and the result that would have reversed it."""

    verdict: Verdict
    reason: str
    would_reverse: str
    kind: Kind | None = None


@dataclass(frozen=True)
class Said:
    """How many of the known facts are said, with a 95 % interval (Clopper-Pearson or the like) of the share."""

    count: int
    n: int
    interval: Interval

    @property
    def share(self) -> float:
        return self.count / self.n

    def __str__(self) -> str:
        return f"{self.count} of {self.n}"
