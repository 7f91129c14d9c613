"""One number of one metric: value or reason, interval, control, series over layers, rows of items."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Direction = Literal["knowledge", "forgetting", "protection", "utility", "change", "none"]
"""What a higher value means: more knowledge kept, more forgotten, a healthier model, more changed, or no order."""

Number = float | None
Interval = tuple[float, float]
Cell = str | int | float | bool | None


class Record(BaseModel):
    """A frozen record; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Control(Record):
    """The same number where the knowledge in question plays no part."""

    name: str
    value: Number = None
    interval: Interval | None = None


class Measurement(Record):
    """One number of one metric with everything needed to believe or doubt it.

    Attributes:
        metric: the metric's file name, command-line name and HTML anchor.
        title: a few words for people.
        value: the number for the unlearned model (or for the pair), ``None`` if not measured.
        interval: confidence interval of ``value``; ``None`` where the value is exact, not sampled.
        base, base_interval, retained: the same number for the other models, where it exists.
        unit: what one unit of ``value`` is, e.g. ``"nats per answer token"``.
        direction: what a higher value means.
        n: items behind the value.
        p_value: of the stated null in ``details["null"]``.
        control: the same number on something unrelated.
        layers: name of a series -> one value per layer, layer 0 first.
        items: one row per item, all rows with the same keys.
        details: settings and further scalars, JSON values only.
        not_measured: why ``value`` is ``None``.
    """

    metric: str
    title: str
    value: Number = None
    interval: Interval | None = None
    base: Number = None
    base_interval: Interval | None = None
    retained: Number = None
    unit: str = ""
    direction: Direction = "none"
    n: int | None = None
    p_value: Number = None
    control: Control | None = None
    layers: dict[str, list[Number]] = Field(default_factory=dict)
    items: list[dict[str, Cell]] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    not_measured: str | None = None

    @model_validator(mode="after")
    def value_or_reason(self) -> Measurement:
        if (self.value is None) == (self.not_measured is None):
            raise ValueError(f"{self.metric}: give either a value or the reason it was not measured")
        return self

    @field_validator("layers", "items", "details", mode="before")
    @classmethod
    def null_where_not_finite(cls, value: Any) -> Any:
        """Series and tables may have holes; a hole is null, never NaN."""
        return finite_or_null(value)

    @field_validator("value", "base", "retained", "p_value")
    @classmethod
    def finite(cls, value: Number) -> Number:
        if value is not None and not math.isfinite(value):
            raise ValueError("numbers are finite or None with a reason")
        return value


def finite_or_null(value: Any) -> Any:
    """``value`` with every float that is not finite replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_null(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return value
