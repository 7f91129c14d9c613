"""An edit at several strengths: its effect on the concept's answers against its effect on unrelated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.result import Interval
from reports.charts.series import WIDTH, legend, marker, vertical_axis
from reports.charts.svg import Scale, coordinate, element, fitted, picture, text_at
from reports.formatting import number

STYLES = {"the concept's answers": 1, "unrelated answers": 3}
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 58.0, WIDTH - 14, 34.0, 206.0, 250.0


@dataclass(frozen=True)
class Dose:
    """One strength of an edit, and the fall of answers about the concept and of unrelated ones (in this order)."""

    strength: float
    falls: tuple[float, float]
    intervals: tuple[Interval | None, Interval | None]
    chosen: bool


def dose_curve(key: str, title: str, unit: str, doses: Sequence[Dose]) -> str:
    """Both effects over the strength, with their intervals; a vertical line marks the chosen strength."""
    if len(doses) < 2:
        return ""
    values = [value for dose in doses for value in dose.falls]
    values += [bound for dose in doses for interval in dose.intervals if interval for bound in interval]
    y = fitted([0.0, *values], BOTTOM, TOP, room=0.06)
    x = fitted([0.0, *(dose.strength for dose in doses)], LEFT, RIGHT, room=0.02)
    parts = [vertical_axis(y, LEFT, RIGHT), _strengths(doses, x)]
    for place, (name, style) in enumerate(STYLES.items()):
        parts.append(_curve(name, style, [(x(d.strength), d.falls[place], d.intervals[place]) for d in doses], y))
    label = text_at((LEFT + RIGHT) / 2, BOTTOM + 34, "strength of the edit", class_="label", text_anchor="middle")
    parts += [label, legend(STYLES, LEFT)]
    points = "; ".join(f"at {number(d.strength)}: {number(d.falls[0])} against {number(d.falls[1])}" for d in doses)
    return picture(key, title, f"{unit}. Effect against collateral, {points}.", (WIDTH, HEIGHT), "".join(parts))


def _strengths(doses: Sequence[Dose], x: Scale) -> str:
    parts = []
    for dose in doses:
        at = x(dose.strength)
        if dose.chosen:
            parts.append(element("line", x1=at, x2=at, y1=TOP, y2=BOTTOM, class_="zero"))
        label = f"{number(dose.strength)}{' chosen' if dose.chosen else ''}"
        parts.append(text_at(at, BOTTOM + 17, label, class_="tick", text_anchor="middle"))
    return "".join(parts)


def _curve(name: str, style: int, points: Sequence[tuple[float, float, Interval | None]], y: Scale) -> str:
    """One effect from its points (pixels right, value, interval)."""
    steps = "L".join(f"{coordinate(at)} {coordinate(y(value))}" for at, value, _ in points)
    parts = [element("path", d=f"M{steps}", class_=f"line s{style}")]
    for at, value, interval in points:
        if interval:
            low, high = (y(bound) for bound in interval)
            parts.append(element("line", x1=at, x2=at, y1=low, y2=high, class_=f"whisker s{style}"))
        parts.append(marker(style, at, y(value), 3.4, f"{name}: {number(value)}"))
    return "".join(parts)
