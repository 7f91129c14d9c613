"""The small part of SVG that the charts need: escaped elements, rounded coordinates, a scale with ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from reports.formatting import shorten, visible


def element(tag: str, content: str = "", **attributes: object) -> str:
    """``<tag ...>content</tag>``; ``class_`` gives ``class``, ``stroke_width`` gives ``stroke-width``."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"' for key, value in attributes.items())
    return f"<{tag}{pairs}>{content}</{tag}>" if content else f"<{tag}{pairs}/>"


def text_at(x: float, y: float, text: str, **attributes: object) -> str:
    """One line of text at ``x, y``."""
    return element("text", str(escape(visible(text))), x=x, y=y, **attributes)


def tooltip(text: str) -> str:
    """First child of an element: a browser shows it while the pointer rests on the element."""
    return element("title", str(escape(shorten(text))))


def _attribute(value: object) -> str:
    return coordinate(value) if isinstance(value, float) else str(escape(visible(str(value))))


def coordinate(value: float) -> str:
    """Tenths of a pixel, without a trailing zero: equal figures give equal bytes on every machine."""
    return f"{value:.1f}".removesuffix(".0")


def picture(key: str, title: str, description: str, size: tuple[float, float], content: str) -> Markup:
    """An ``<svg>`` that a screen reader announces by ``title`` and ``description``; ``key`` is unique on the page."""
    title_element = element("title", str(escape(visible(title))) or "Figure", id=f"{key}-title")
    description_element = element("desc", str(escape(visible(description))) or "No description", id=f"{key}-desc")
    width, height = size
    svg = element(
        "svg",
        title_element + description_element + content,
        class_="figure",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        width=width,
        height=height,
    )
    return Markup(svg)


HUGE = 1e300
"""Greatest magnitude drawn to scale, larger values are drawn at the edge: their span would not be finite."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (min(max(value, self.low), self.high) - self.low) / span if span else 0.5
        return self.start + share * (self.stop - self.start)


def fitted(values: Sequence[float], start: float, stop: float, room: float = 0.0) -> Scale:
    """A scale over all ``values``, with ``room`` (a share of their span) on both sides."""
    low, high = max(min(values), -HUGE), min(max(values), HUGE)
    margin = room * (high - low) or (room * abs(high) or 0.5 if high == low else 0.0)
    return Scale(low - margin, high + margin, start, stop)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round values from ``low`` to ``high``."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * magnitude for factor in (1, 2, 2.5, 5) if factor * magnitude >= raw), 10 * magnitude)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, math.floor(high / step + 1e-9) + 1)]
