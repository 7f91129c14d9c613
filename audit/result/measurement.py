"""One number of one metric: value or reason, interval, control, series over layers, rows of items."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Direction = Literal["knowledge", "forgetting", "protection", "utility", "change", "none"]
"""Meaning of a higher value: more knowledge, more forgotten, protected, healthier model, more changed, no order."""

Source = Literal["answers", "internals", "attacks", "weights"]
"""What a number is read from: what the model answers, its inside while it answers, the model under attack, weights."""

Reading = Literal["none", "readable", "inverted"]
"""Whether true answers are preferred to alternatives of the same type beyond chance, avoided, or neither."""

AS_IS: Final = "as is"
"""The condition of unmodified models."""

Number = float | None
Interval = tuple[float, float]
Cell = str | int | float | bool | None


class Record(BaseModel):
    """A frozen record; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Control(Record):
    """The same number on items that do not depend on the topic; ``base`` is the base model's."""

    name: str
    value: Number = None
    interval: Interval | None = None
    base: Number = None


class LayerReading(Record):
    """The association test after the layer with the strongest reading."""

    layer: int
    reading: Reading
    value: Number = None
    z: Number = None
    p_value: Number = None


class Named(Record):
    """Identifies a measurement. The runner fills these fields in.

    Attributes:
        metric: the metric's file name, command-line name and HTML anchor.
        title: a short display name.
        condition: the attack and dose under which the models were read; ``"as is"`` for unmodified models.
        source: ``None`` in results of version 0.1.0.
    """

    metric: str
    title: str
    condition: str = AS_IS
    source: Source | None = None


class Measured(Record):
    """One number of one metric with its interval, control and context, before the runner names it.

    Attributes:
        value: the number for the unlearned model (or for the pair), ``None`` if not measured.
        interval: confidence interval of ``value``; ``None`` for exact values.
        base, base_interval, retained: the same number for the other models, if it exists.
        unit: unit of ``value``, e.g. ``"nats per answer token"``.
        direction: meaning of a higher value.
        n: number of items that the value is computed from.
        p_value: under ``null``.
        null: the null hypothesis of ``p_value`` in words.
        control: the same number on unrelated items.
        reading: the association test at the output.
        lens: the association test at the layer with the strongest reading.
        chance: upper bound of the score of a model that guesses without the knowledge.
        original_wording: the same number of the unlearned model on the original wording of the questions.
        plain: the same number without an attack.
        summary: the result in words, if it is more than the number.
        layers: name of a series -> one value per layer, layer 0 first.
        layers_unit: unit of these series, if it differs from ``unit``.
        items: one row per item, all rows with the same keys.
        details: settings and further values for display, JSON values only. Neither rules nor reports read them by key.
        not_measured: the reason why ``value`` is ``None``.
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
    summary: str | None = None
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
        """Series and tables may have missing values; these are null, never NaN."""
        return finite_or_null(value)

    @field_validator("value", "base", "retained", "p_value")
    @classmethod
    def finite(cls, value: Number) -> Number:
        if value is not None and not math.isfinite(value):
            raise ValueError("numbers are finite or None with a reason")
        return value

    def named(self, metric: str, title: str, source: Source, condition: str = AS_IS) -> Measurement:
        """This number as the measurement of ``metric`` under ``condition``."""
        return Measurement(metric=metric, title=title, condition=condition, source=source, **dict(self))


class Measurement(Measured, Named):
    """A ``Measured`` with its name."""


def not_measured(reason: str) -> Measured:
    """The return value of a metric that has no number."""
    return Measured(not_measured=reason)


MOVED: Final = {"null": "null", "layers": "layers_unit", "reading": "reading", "lens": "lens", "never_knew": "chance"}
"""Keys of ``details`` in documents of version 0.1.0 -> the fields that replace them."""


def lifted(document: dict[str, Any]) -> dict[str, Any]:
    """A measurement of version 0.1.0 with the keys of ``details`` moved to the fields that replace them."""
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
