"""What charts of several series share: a dash and a marker for each series, the legend, the vertical axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle

from reports.charts.svg import Scale, coordinate, element, text_at, ticks, tooltip
from reports.formatting import clip, number

Series = Mapping[str, Sequence[float | None]]
"""Name -> one value a layer, layer 0 first; ``None`` for a hole."""

WIDTH = 760.0
STYLES = {"base": 0, "unlearned": 1, "retained": 2, "control": 3}
"""Series that look the same in every chart; others take the remaining styles in order."""
LEGEND_Y = 14.0
LEGEND_LINE = 18.0


def styles_of(names: Sequence[str]) -> dict[str, int]:
    """The style of each series: its own for a known name, otherwise the next style that no other series has."""
    taken = {STYLES[name] for name in names if name in STYLES}
    free = cycle([style for style in (4, 5, 3, 2, 1, 0) if style not in taken] or [4, 5])
    return {name: STYLES[name] if name in STYLES else next(free) for name in names}


# ---- markers: one shape a style


def _circle(x: float, y: float, size: float) -> str:
    return element("circle", cx=x, cy=y, r=size)


def _polygon(points: Sequence[tuple[float, float]]) -> Callable[[float, float, float], str]:
    def draw(x: float, y: float, size: float) -> str:
        corners = " ".join(f"{coordinate(x + size * dx)},{coordinate(y + size * dy)}" for dx, dy in points)
        return element("polygon", points=corners)

    return draw


MARKERS: tuple[Callable[[float, float, float], str], ...] = (
    _circle,
    _polygon([(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)]),
    _polygon([(0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
    _polygon([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    _polygon([(0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
    _polygon([(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)]),
    _polygon([(-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)]),
)


def marker(style: int, x: float, y: float, size: float = 3.0, title: str = "") -> str:
    """The marker of ``style`` at ``x, y``, with ``title`` as its tooltip."""
    return element("g", (tooltip(title) if title else "") + MARKERS[style](x, y, size), class_=f"mark s{style}")


# ---- legend


def legend(styles: Mapping[str, int], left: float) -> str:
    """Line, marker and name of each series, from ``left`` on, in as many lines as they need."""
    parts = []
    for name, (right, down) in _places(styles, left).items():
        style, x, y = styles[name], left + right, LEGEND_Y + down
        parts.append(element("path", d=f"M{coordinate(x)} {coordinate(y)}h26", class_=f"line s{style}"))
        parts.append(marker(style, x + 13, y, 3.0))
        parts.append(text_at(x + 32, y + 4, clip(name, 32), class_="label"))
    return "".join(parts)


def legend_overflow(names: Iterable[str], left: float) -> float:
    """Pixels that the legend needs below its first line."""
    return max((down for _, down in _places(names, left).values()), default=0.0)


def _places(names: Iterable[str], left: float) -> dict[str, tuple[float, float]]:
    """Offset of each name of the legend from its first (right, down); a full line is followed by another."""
    places, x, y = {}, 0.0, 0.0
    for name in names:
        width = 50 + 7.2 * len(clip(name, 32))
        if x and left + x + width > WIDTH:
            x, y = 0.0, y + LEGEND_LINE
        places[name] = (x, y)
        x += width
    return places


def vertical_axis(y: Scale, left: float, right: float) -> str:
    """Grid lines with their values; the line at zero is stronger."""
    parts = []
    for tick in ticks(y.low, y.high):
        at = y(tick)
        parts.append(element("line", x1=left, x2=right, y1=at, y2=at, class_="zero" if tick == 0 else "grid"))
        parts.append(text_at(left - 8, at + 4, number(tick, ()), class_="tick", text_anchor="end"))
    return "".join(parts)
