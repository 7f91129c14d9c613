"""One row a measurement: the values of all models with their intervals, on a scale of the row's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.charts.series import STYLES, WIDTH, legend, marker
from reports.charts.svg import Scale, element, fitted, picture, text_at, tooltip
from reports.formatting import clip, number, shorten

OFFSETS = {"base": -5.0, "unlearned": 5.0, "retained": 0.0, "control": 0.0}
"""Pixels below the row's line, so that values and intervals that coincide are both visible."""
ORDER = ("control", "retained", "base", "unlearned")
"""Of drawing: what matters most is drawn last, above the others."""
SPREAD = 0.1
"""Spread of shares from which they are drawn on the scale of 0 to 1."""
LEFT, RIGHT, TOP, ROW = 318.0, WIDTH - 74, 34.0, 34.0


@dataclass(frozen=True)
class DotRow:
    """One measurement: model or control -> value, and -> interval."""

    label: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def dots(key: str, title: str, rows: Sequence[DotRow]) -> str:
    """One dot a value, with its interval; the ends of each row's scale are printed, the shape shows the model.

    Shares are drawn from 0 to 1, unless they nearly agree: then they would be a single dot there.
    """
    if not rows:
        return ""
    used = {name: style for name, style in STYLES.items() if any(name in row.values for row in rows)}
    parts = [legend(used, LEFT)]
    parts += [_row(row, TOP + index * ROW + ROW / 2) for index, row in enumerate(rows)]
    values = "; ".join(f"{row.label}: " + ", ".join(f"{n} {number(v)}" for n, v in row.values.items()) for row in rows)
    description = f"Every row has its own scale, its ends are printed. {shorten(values, 2000)}."
    return picture(key, title, description, (WIDTH, TOP + len(rows) * ROW + 4), "".join(parts))


def _row(row: DotRow, y: float) -> str:
    values = [*row.values.values(), *(bound for bounds in row.intervals.values() for bound in bounds)]
    spread = max(values) - min(values)
    if min(values) >= 0 and max(values) <= 1 and (spread > SPREAD or not spread):
        values += [0.0, 1.0]
    x = fitted(values, LEFT, RIGHT)
    parts = [
        element("g", tooltip(row.label) + text_at(0, y + 4, clip(row.label, 34), class_="label")),
        element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"),
        text_at(LEFT - 8, y + 4, number(x.low), class_="tick", text_anchor="end"),
        text_at(RIGHT + 8, y + 4, number(x.high), class_="tick"),
    ]
    parts += [_dot(name, row, x, y) for name in ORDER if name in row.values]
    return "".join(parts)


def _dot(name: str, row: DotRow, x: Scale, y: float) -> str:
    style, value = STYLES[name], row.values[name]
    y += OFFSETS[name] if len(row.values) > 1 else 0.0
    bounds = row.intervals.get(name)
    whisker = ""
    if bounds is not None:
        low, high = (x(bound) for bound in bounds)
        whisker = element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{style}")
    return whisker + marker(style, x(value), y, 4.2, f"{name}: {number(value)}")
