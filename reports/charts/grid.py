"""A grid of changes: one cell a role and layer, with the number of its step on a scale of a few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.charts.series import WIDTH, Series
from reports.charts.svg import element, picture, text_at, tooltip
from reports.formatting import clip, number

STEPS = 7
LEFT, TOP, ROW = 118.0, 8.0, 20.0


@dataclass(frozen=True)
class Steps:
    """Upper bounds of the steps, smallest first."""

    bounds: tuple[float, ...]

    def step(self, value: float) -> int:
        """1 for the smallest changes; 0 for none."""
        if value <= 0:
            return 0
        return next((step for step, bound in enumerate(self.bounds, 1) if value <= bound), len(self.bounds))

    def tint(self, step: int) -> int:
        """0 to ``STEPS``, also if there are fewer steps."""
        return round(step * STEPS / len(self.bounds))


def steps_of(values: Sequence[float]) -> Steps:
    """Steps for positive ``values``: equal ratios if they span more than a factor of two, otherwise equal widths."""
    low, high = min(values), max(values)
    if low == high:
        return Steps((high,))
    low = max(low, high / 1e4)
    shares = [step / STEPS for step in range(1, STEPS)]
    if high / low > 2:
        return Steps((*(low * (high / low) ** share for share in shares), high))
    return Steps((*(low + (high - low) * share for share in shares), high))


def grid(key: str, title: str, rows: Series) -> str:
    """One cell a row and layer: a step digit for a change, a dot for an unchanged cell, nothing without a value."""
    positive = _positive(rows)
    n_layers = max((len(values) for values in rows.values()), default=0)
    if not n_layers:
        return ""
    steps = steps_of(positive) if positive else Steps((0.0,))
    width = min(max((WIDTH - LEFT) / n_layers, 11.0), 34.0)
    parts = []
    for row, (name, values) in enumerate(rows.items()):
        y = TOP + row * ROW
        parts.append(text_at(LEFT - 8, y + 14, clip(name, 16), class_="label", text_anchor="end"))
        for layer, value in enumerate(values):
            parts.append(_cell(LEFT + layer * width, y, width, value, steps, f"layer {layer}, {name}"))
    bottom = TOP + len(rows) * ROW
    for layer in range(0, n_layers, max(math.ceil(26 / width), 1)):
        middle = LEFT + (layer + 0.5) * width
        parts.append(text_at(middle, bottom + 16, str(layer), class_="tick", text_anchor="middle"))
    parts.append(text_at(LEFT - 8, bottom + 16, "layer", class_="label", text_anchor="end"))
    size = (max(LEFT + n_layers * width + 2, 420.0), bottom + 24)
    largest = f"{len(rows)} rows, {n_layers} layers. Largest {number(max(positive))}." if positive else ""
    return picture(key, title, largest or "Nothing changed.", size, "".join(parts))


def _cell(x: float, y: float, width: float, value: float | None, steps: Steps, place: str) -> str:
    if value is None:
        return ""
    step = steps.step(value)
    tint = steps.tint(step)
    box = element("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=ROW - 1, class_=f"cell h{tint}")
    digit = text_at(x + width / 2, y + ROW / 2 + 3.5, str(step) if step else "·", class_=f"step t{tint}")
    return element("g", tooltip(f"{place}: {number(value) if value else 'unchanged'}") + box + digit)


def grid_key(rows: Series) -> list[tuple[int, str, str]]:
    """What the step digits of ``grid`` mean: (tint, digit, range)."""
    positive = _positive(rows)
    meaning = [(0, "·", "unchanged")]
    if positive:
        steps = steps_of(positive)
        meaning += [(steps.tint(n), str(n), f"up to {bound:.2g}") for n, bound in enumerate(steps.bounds, 1)]
    return meaning


def _positive(rows: Series) -> list[float]:
    return [value for values in rows.values() for value in values if value is not None and value > 0]
