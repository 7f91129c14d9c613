"""One row a condition: how much of the facts can be read, and is said, in each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.charts.recovery import PANELS, READABLE, SAYS, Estimate, Outcome
from reports.charts.series import WIDTH, legend, marker
from reports.charts.svg import Scale, element, picture, text_at, ticks, tooltip
from reports.formatting import clip, number, shorten

LEFT, GAP, TOP = 214.0, 34.0, 46.0
LINE, BETWEEN = 7.0, 9.0
"""Pixels between two models of a condition, and between two conditions."""


@dataclass(frozen=True)
class AttackRow:
    """One condition; ``outcomes`` by model."""

    label: str
    outcomes: Mapping[str, Outcome]


def attack_rows(key: str, title: str, rows: Sequence[AttackRow], styles: Mapping[str, int]) -> str:
    """Both numbers of each model, on scales that all conditions share; a line of its own for each model.

    Args:
        styles: of each model, in the order in which they are drawn.
    """
    if not rows:
        return ""
    used = {name: style for name, style in styles.items() if any(name in row.outcomes for row in rows)}
    heights = [LINE * max(len(row.outcomes), 2) + BETWEEN for row in rows]
    bottom = TOP + sum(heights)
    side = (WIDTH - LEFT - GAP - 12) / 2
    parts = [legend(used, LEFT)]
    scales = {}
    for place, name in enumerate(PANELS):
        left = LEFT + place * (side + GAP)
        scales[name] = Scale(_lowest(rows) if name == READABLE else 0.0, 1.0, left, left + side)
        parts.append(text_at(left, TOP - 10, name, class_="label"))
        parts.append(_axis(scales[name], bottom))
    y = TOP
    for row, height in zip(rows, heights, strict=True):
        parts.append(_row(row, used, scales, y, height))
        y += height
    description = f"{READABLE.capitalize()} and {SAYS}. {shorten(_told(rows), 3_000)}."
    return picture(key, title, description, (WIDTH, bottom + 24), "".join(parts))


def _lowest(rows: Sequence[AttackRow]) -> float:
    found = [outcome.readable for row in rows for outcome in row.outcomes.values()]
    bounds = [bound for each in found for bound in (each.value, *(each.interval or ())) if bound is not None]
    return min(0.0, *bounds) if bounds else 0.0


def _axis(x: Scale, bottom: float) -> str:
    parts = []
    for tick in ticks(x.low, x.high):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=TOP, y2=bottom, class_="grid" if tick else "zero"))
        parts.append(text_at(x(tick), bottom + 16, number(tick, ()), class_="tick", text_anchor="middle"))
    return "".join(parts)


def _row(row: AttackRow, styles: Mapping[str, int], scales: Mapping[str, Scale], top: float, height: float) -> str:
    middle = top + height / 2
    parts = [element("g", tooltip(row.label) + text_at(0, middle + 4, clip(row.label, 34), class_="label"))]
    parts.append(element("line", x1=0.0, x2=WIDTH, y1=top, y2=top, class_="grid"))
    models = [name for name in styles if name in row.outcomes]
    for place, model in enumerate(models):
        y = middle + LINE * (place - (len(models) - 1) / 2)
        for name, of in PANELS.items():
            note = f"{row.label}, {model}, {name}"
            parts.append(_mark(of(row.outcomes[model]), styles[model], scales[name], y, note))
    return "".join(parts)


def _mark(estimate: Estimate, style: int, x: Scale, y: float, note: str) -> str:
    if estimate.value is None:
        return ""
    whisker = ""
    if estimate.interval is not None:
        low, high = map(x, estimate.interval)
        whisker = element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker thin s{style}")
    return whisker + marker(style, x(estimate.value), y, 3.2, f"{note}: {estimate}")


def _told(rows: Sequence[AttackRow]) -> str:
    return "; ".join(
        f"{row.label}: " + ", ".join(f"{model} {each.readable} and {each.says}" for model, each in row.outcomes.items())
        for row in rows
    )
