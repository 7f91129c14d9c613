"""One number of one metric: value or reason, interval, control, series over layers, rows of items."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Direction = Literal["knowledge", "forgetting", "protection", "utility", "change", "none"]
"""What a higher value means: more knowledge kept, more forgotten, a healthier model, more changed, or no order."""

Reading = Literal["none", "readable", "inverted"]
"""Whether the truth is preferred to alternatives of the same type beyond chance, avoided beyond chance, or neither."""

AS_IS: Final = "as is"
"""The condition of a model that is read as it was given."""

Number = float | None
Interval = tuple[float, float]
Cell = str | int | float | bool | None


class Record(BaseModel):
    """A frozen record; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Control(Record):
    """The same number where the knowledge in question plays no part; ``base`` is the base model's."""

    name: str
    value: Number = None
    interval: Interval | None = None
    base: Number = None


class LayerReading(Record):
    """What the association test reads after one layer: the layer that shows most."""

    layer: int
    reading: Reading
    value: Number = None
    z: Number = None
    p_value: Number = None


class Named(Record):
    """Which number it is. The runner fills these in.

    Attributes:
        metric: the metric's file name, command-line name and HTML anchor.
        title: a few words for people.
        condition: how the models were treated before they were read; ``"as is"`` where they were not.
    """

    metric: str
    title: str
    condition: str = AS_IS


class Measured(Record):
    """One number of one metric with everything needed to believe or doubt it, before the runner names it.

    Attributes:
        value: the number for the unlearned model (or for the pair), ``None`` if not measured.
        interval: confidence interval of ``value``; ``None`` where the value is exact, not sampled.
        base, base_interval, retained: the same number for the other models, where it exists.
        unit: what one unit of ``value`` is, e.g. ``"nats per answer token"``.
        direction: what a higher value means.
        n: items behind the value.
        p_value: under ``null``.
        null: the null hypothesis of ``p_value`` in words.
        control: the same number on something unrelated.
        reading: what the association test says at the output.
        lens: the same at the layer that shows most.
        chance: the most that a model without the knowledge reaches by guessing.
        original_wording: the same number in the unlearned model, the questions in their first wording.
        plain: the same number where no attack is made.
        layers: name of a series -> one value per layer, layer 0 first.
        layers_unit: unit of these series, where it is not ``unit``.
        items: one row per item, all rows with the same keys.
        details: settings and further scalars for people, JSON values only. No rule and no report reads them by key.
        not_measured: why ``value`` is ``None``.
    """

    value: Number = None
    interval: Interval | None = None
    base: Number = None
    base_interval: Interval | None = None
    retained: Number = None
    unit: str = ""
    direction: Direction = "none"
    n: int | None = None
    p_value: Number = None
    null: str | None = None
    control: Control | None = None
    reading: Reading | None = None
    lens: LayerReading | None = None
    chance: Number = None
    original_wording: Number = None
    plain: Number = None
    layers: dict[str, list[Number]] = Field(default_factory=dict)
    layers_unit: str | None = None
    items: list[dict[str, Cell]] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    not_measured: str | None = None

    @model_validator(mode="after")
    def value_or_reason(self) -> Self:
        if (self.value is None) == (self.not_measured is None):
            raise ValueError(f"{getattr(self, 'metric', 'a metric')}: give a value or the reason it was not measured")
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

    def named(self, metric: str, title: str, condition: str = AS_IS) -> Measurement:
        """The same as the measurement of ``metric`` under ``condition``."""
        return Measurement(metric=metric, title=title, condition=condition, **dict(self))


class Measurement(Measured, Named):
    """A ``Measured`` with its name."""


def not_measured(reason: str) -> Measured:
    """What a metric returns instead of a number."""
    return Measured(not_measured=reason)


MOVED: Final = {"null": "null", "layers": "layers_unit", "reading": "reading", "lens": "lens", "never_knew": "chance"}
"""Keys of ``details`` in documents of version 0.1.0 -> the fields that replace them."""


def lifted(document: dict[str, Any]) -> dict[str, Any]:
    """A measurement of an earlier document with the fields that were keys of ``details`` then."""
    details = document.get("details")
    if not isinstance(details, dict):
        return document
    new, kept = dict(document), dict(details)
    for key, name in MOVED.items():
        if key in kept and new.get(name) is None and (key != "layers" or new.get("layers")):
            new[name] = kept.pop(key)
    control = new.get("control")
    if isinstance(control, dict) and control.get("base") is None and "control_base" in kept:
        new["control"] = {**control, "base": kept.pop("control_base")}
    if new.get("metric") == "paraphrase_memorisation" and isinstance(kept.get("asked"), dict):
        new.setdefault("original_wording", kept["asked"].get("unlearned"))
    if new.get("metric") == "gate_recall" and "worst" in kept:
        new |= {"condition": kept.pop("worst"), "plain": kept.pop("plain", None)}
    return {**new, "details": kept}


def finite_or_null(value: Any) -> Any:
    """``value`` with every float that is not finite replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_null(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return value
