"""Points of several models in one plane, one panel a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.charts.series import WIDTH, legend, marker, styles_of
from reports.charts.svg import Scale, element, fitted, picture, text_at
from reports.formatting import clip, shorten

TOP, BOTTOM, GAP = 58.0, 272.0, 22.0


@dataclass(frozen=True)
class Point:
    """One item's place: ``panel`` is the model, ``kind`` the set the item belongs to."""

    panel: str
    kind: str
    x: float
    y: float


def scatter(key: str, title: str, points: Sequence[Point]) -> str:
    """One panel a model, side by side and on the same scales; the marker's shape shows the set."""
    if not points:
        return ""
    panels = list(dict.fromkeys(point.panel for point in points))
    kinds = styles_of(list(dict.fromkeys(point.kind for point in points)))
    side = (WIDTH - GAP * (len(panels) - 1)) / len(panels)
    y = fitted([point.y for point in points], BOTTOM - 8, TOP + 8, room=0.04)
    parts = [legend(kinds, 2.0)]
    for place, panel in enumerate(panels):
        left = place * (side + GAP)
        x = fitted([point.x for point in points], left + 8, left + side - 8, room=0.04)
        parts += _frame(panel, left, side, x(0.0))
        parts += [_mark(point, kinds[point.kind], x, y) for point in points if point.panel == panel]
    counts = "; ".join(f"{panel}: {_counts(points, panel, kinds)}" for panel in panels)
    description = f"Points on the same two axes. {shorten(counts, 600)}."
    return picture(key, title, description, (WIDTH, BOTTOM + 6), "".join(parts))


def _frame(panel: str, left: float, side: float, zero: float) -> list[str]:
    """The panel's border and name, and a line at zero if that is inside."""
    parts = [
        element("rect", x=left, y=TOP, width=side, height=BOTTOM - TOP, class_="frame"),
        text_at(left + 2, TOP - 8, clip(panel, 24), class_="label"),
    ]
    if left < zero < left + side:
        parts.append(element("line", x1=zero, x2=zero, y1=TOP, y2=BOTTOM, class_="grid"))
    return parts


def _mark(point: Point, style: int, x: Scale, y: Scale) -> str:
    return marker(style, x(point.x), y(point.y), 3.2, f"{point.panel}, {point.kind}")


def _counts(points: Sequence[Point], panel: str, kinds: Iterable[str]) -> str:
    return ", ".join(f"{sum((p.panel, p.kind) == (panel, kind) for p in points)} {kind}" for kind in kinds)
