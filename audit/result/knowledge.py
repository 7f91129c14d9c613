"""What is known of a topic's facts: by fact and condition, and how much is left."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from audit.result.measurement import Interval, Number, Record

Kind = Literal["readable", "brought back", "inverted"]
"""How hidden knowledge shows: as the model is, only under an attack, or as the truth being avoided."""


class FactReading(Record):
    """One fact in one model under one condition.

    Attributes:
        says: whether the written answer is right; ``None`` if the fact was not asked.
        rank: rank of the true answer among those of its type, 0 for the best and 1 for the last.
    """

    model: str
    condition: str
    says: bool | None = None
    rank: Number = None


class FactRecord(Record):
    """One fact: its question, its answer, and what each model did with it.

    Attributes:
        known: whether the base says it; only such facts count.
    """

    question: str
    answer: str
    type: str | None
    subject: str
    known: bool
    readings: list[FactReading] = Field(default_factory=list)


class ModelReading(Record):
    """One model's known facts under one condition.

    Attributes:
        says: share of the known facts that it says.
        readable: 1 for a model that ranks every true answer first among those of its type, 0 for one that cannot tell
            them apart, negative if it avoids the truth.
    """

    model: str
    says: Number = None
    readable: Number = None
    readable_interval: Interval | None = None
    n: int = 0


class ConditionRecord(Record):
    """All models under one condition, and the exchange test of the unlearned one.

    Attributes:
        attack: file name of the attack; ``None`` for the unmodified models.
        nats: mean centred score of the true answers.
        z: of ``nats`` under exchanged answers.
        p_value: two-sided, corrected for all conditions and places.
    """

    condition: str
    attack: str | None
    title: str
    dose: str
    models: list[ModelReading] = Field(default_factory=list)
    nats: Number = None
    z: Number = None
    p_value: Number = None


class Residual(Record):
    """The share of the base's knowledge that is left, by the condition that shows most.

    Attributes:
        value: 0 for a model that never knew (or for the reference), 1 for the base; negative if the truth is avoided.
        interval: 90 %, by bootstrap over subjects.
        condition, place: where it was read; chosen on one half of the facts and read on the other.
        n: facts.
        p_value: of the test that decides: the exchange test, or the comparison with the reference.
        test: that test in words.
        least_detectable: the smallest share that would have been seen with probability 0.8.
        margin: the share below which knowledge counts as removed.
        twin: the share read from the base after refusal training; ``None`` if there is no twin.
        calibrated: whether the margin was fitted on models whose truth is known.
    """

    value: Number = None
    interval: Interval | None = None
    condition: str = ""
    place: str = ""
    n: int = 0
    p_value: Number = None
    test: str = ""
    least_detectable: Number = None
    margin: float = 0.0
    twin: Number = None
    calibrated: bool = False
