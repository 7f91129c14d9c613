"""What training brings back: the share of facts that can be read, and that is said, over the steps of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from audit.result import Interval
from reports.charts.series import WIDTH, legend, legend_overflow, marker
from reports.charts.svg import Scale, coordinate, element, picture, text_at, ticks
from reports.formatting import decimals, number, shorten

LEFT, GAP, HEIGHT = 40.0, 52.0, 186.0
APART = 3.0
"""Pixels between the intervals of two curves at the same step."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``value`` is ``None`` if it was not measured."""

    value: float | None
    interval: Interval | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        return decimals(self.value) + (f" ({' to '.join(map(decimals, self.interval))})" if self.interval else "")


@dataclass(frozen=True)
class Outcome:
    """One model under one condition: how much can be read, and the share of facts that is said."""

    readable: Estimate
    says: Estimate


READABLE, SAYS = "can be read", "is said"
PANELS: Mapping[str, Callable[[Outcome], Estimate]] = {
    READABLE: lambda outcome: outcome.readable,
    SAYS: lambda outcome: outcome.says,
}


@dataclass(frozen=True)
class Curve:
    """One model over the steps of its training; a curve of one point is drawn as a level."""

    name: str
    style: int
    points: Mapping[int, Outcome]


def recovery(key: str, title: str, curves: Sequence[Curve]) -> str:
    """One panel for what can be read and one for what is said; steps are spaced by their logarithm."""
    steps = sorted({step for curve in curves for step in curve.points})
    if len(steps) < 2:
        return ""
    styles = {curve.name: curve.style for curve in curves}
    top = 46.0 + legend_overflow(styles, LEFT)
    bottom, side = top + HEIGHT, (WIDTH - LEFT - GAP - 8) / 2
    parts = [legend(styles, LEFT)]
    for place, (name, of) in enumerate(PANELS.items()):
        left = LEFT + place * (side + GAP)
        x = Scale(0.0, math.log1p(steps[-1]), left + 14, left + side - 14)
        y = Scale(_lowest(curves, of), 1.04, bottom, top)
        parts += [text_at(left, top - 10, name, class_="label"), _axis(y, left, left + side), _steps(steps, x, bottom)]
        for number_, curve in enumerate(curves):
            parts.append(_curve(curve, of, x, y, APART * (number_ - (len(curves) - 1) / 2), (left, left + side)))
    description = f"Over {', '.join(map(str, steps))} steps of training. {shorten(_told(curves), 2_000)}."
    return picture(key, title, description, (WIDTH, bottom + 40), "".join(parts))


def _lowest(curves: Sequence[Curve], of: Callable[[Outcome], Estimate]) -> float:
    """A little below 0, or below the lowest value or interval."""
    found = [of(outcome) for curve in curves for outcome in curve.points.values()]
    bounds = [bound for each in found for bound in (each.value, *(each.interval or ())) if bound is not None]
    lowest: float = min([0.0, *bounds])
    return lowest - 0.04


def _axis(y: Scale, left: float, right: float) -> str:
    parts = []
    for tick in ticks(y.low, 1.0):
        at = y(tick)
        parts.append(element("line", x1=left, x2=right, y1=at, y2=at, class_="zero" if tick == 0 else "grid"))
        parts.append(text_at(left - 6, at + 4, number(tick, ()), class_="tick", text_anchor="end"))
    return "".join(parts)


def _steps(steps: Sequence[int], x: Scale, bottom: float) -> str:
    names = {step: str(step) if step else "as it is" for step in steps}
    parts = [
        text_at(x(math.log1p(step)), bottom + 17, name, class_="tick", text_anchor="middle")
        for step, name in names.items()
    ]
    middle = (x.start + x.stop) / 2
    return "".join(parts) + text_at(middle, bottom + 34, "steps of training", class_="label", text_anchor="middle")


def _curve(
    curve: Curve, of: Callable[[Outcome], Estimate], x: Scale, y: Scale, aside: float, ends: tuple[float, float]
) -> str:
    """The line, the intervals and the markers; ``aside`` moves intervals apart, ``ends`` are of a level."""
    found = [(step, each) for step, outcome in sorted(curve.points.items()) if (each := of(outcome)).value is not None]
    places = [(x(math.log1p(step)) + aside, y(each.value or 0.0)) for step, each in found]
    if len(curve.points) == 1 and places:
        line = f"M{coordinate(ends[0])} {coordinate(places[0][1])}H{coordinate(ends[1])}"
    else:
        line = "M" + "L".join(f"{coordinate(right)} {coordinate(down)}" for right, down in places)
    parts = [element("path", d=line, class_=f"line s{curve.style}")] if places else []
    for (right, down), (step, each) in zip(places, found, strict=True):
        if each.interval is not None:
            low, high = map(y, each.interval)
            parts.append(element("line", x1=right, x2=right, y1=low, y2=high, class_=f"whisker thin s{curve.style}"))
        when = f"after {step} steps" if step else "as it is"
        parts.append(marker(curve.style, right, down, 3.4, f"{curve.name}, {when}: {each}"))
    return "".join(parts)


def _told(curves: Sequence[Curve]) -> str:
    return "; ".join(
        f"{curve.name}: "
        + ", ".join(f"{step}: {READABLE} {each.readable}, {SAYS} {each.says}" for step, each in curve.points.items())
        for curve in curves
    )
