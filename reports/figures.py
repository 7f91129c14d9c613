"""Charts as inline SVG text: series over layers, a grid of changes, rows of values with intervals.

Equal input gives equal bytes. No chart says anything by colour alone: series differ in dash and marker, cells
carry the number of their step, and the page puts the table of the data behind each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

from reports.formatting import clip, number, shorten
from reports.svg import Scale, coordinate, element, fitted, picture, ticks, words

Series = Mapping[str, Sequence[float | None]]
WIDTH = 760.0
STEPS = 7
"""Steps of the grid's scale."""
STYLES = {"base": 0, "unlearned": 1, "retained": 2, "control": 3}
"""Series that look the same in every chart; others take the styles in order."""
APART = {"base": -5.0, "unlearned": 5.0, "retained": 0.0, "control": 0.0}
"""Pixels below the row's line, so that values and intervals that coincide can both be seen."""
APART_SHARES = 0.1
"""Spread of shares from which they are drawn on the scale of 0 to 1."""
FAR_APART = 30.0
"""Series whose largest values differ by more than this get charts of their own."""
LEGEND_LINE = 18.0


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
)


def marker(style: int, x: float, y: float, size: float = 3.0, title: str = "") -> str:
    note = words_title(title) if title else ""
    return element("g", note + MARKERS[style](x, y, size), class_=f"mark s{style}")


def words_title(text: str) -> str:
    """A tooltip."""
    return element("title", escape(shorten(text)))


def styles_of(names: Sequence[str]) -> dict[str, int]:
    """The style of each series: its own where the name is a known one, else the next that no other series has."""
    taken = {STYLES[name] for name in names if name in STYLES}
    free = cycle([style for style in (4, 5, 3, 2, 1, 0) if style not in taken] or [4, 5])
    return {name: STYLES[name] if name in STYLES else next(free) for name in names}


# ---- lines over layers


def comparable(series: Series) -> list[Series]:
    """``series`` in groups that can share one axis, so that a small one is not drawn as a flat line."""
    groups: list[dict[str, Sequence[float | None]]] = []
    reach = {name: max((abs(v) for v in values if v is not None), default=0.0) for name, values in series.items()}
    for name, values in series.items():
        for group in groups:
            top = max(reach[other] for other in group)
            known = name in STYLES and set(group) <= set(STYLES)
            if known or not top or not reach[name] or 1 / FAR_APART <= reach[name] / top <= FAR_APART:
                group[name] = values
                break
        else:
            groups.append({name: values})
    return [*groups]


def lines(key: str, title: str, unit: str, series: Series, told: str = "") -> str:
    """``series`` (name -> one value a layer, None for a hole) as lines over the layers; ``told`` stands below them."""
    values = [value for found in series.values() for value in found if value is not None]
    n_layers = max((len(found) for found in series.values()), default=0)
    if not values:
        return ""
    styles = styles_of(list(series))
    left, right, top = 58.0, WIDTH - 14, 34.0 + _further_lines(styles, 58.0)
    bottom, height = top + 178, top + 216
    y = fitted(values, bottom, top, room=0.06)
    x = Scale(0, max(n_layers - 1, 1), left, right)
    drawn = [_axes(x, y, n_layers, (left, right, bottom), f"layer ({told})" if told else "layer")]
    for name, found in series.items():
        drawn.append(_line(name, found, styles[name], x, y))
    drawn.append(_legend(styles, left, 14.0))
    peaks = "; ".join(_peak(name, found) for name, found in series.items())
    return picture(
        key, title, f"{unit or 'Value'} by layer, {n_layers} layers. {peaks}.", (WIDTH, height), "".join(drawn)
    )


def _axes(x: Scale, y: Scale, n_layers: int, frame: tuple[float, float, float], below: str) -> str:
    left, right, bottom = frame
    parts = []
    for tick in ticks(y.low, y.high):
        at = y(tick)
        parts.append(element("line", x1=left, x2=right, y1=at, y2=at, class_="zero" if tick == 0 else "grid"))
        parts.append(words(left - 8, at + 4, number(tick, ()), class_="tick", text_anchor="end"))
    every = max(math.ceil(n_layers / 16), 1)
    for layer in range(0, n_layers, every):
        parts.append(words(x(layer), bottom + 17, str(layer), class_="tick", text_anchor="middle"))
    parts.append(words((left + right) / 2, bottom + 34, clip(below, 90), class_="label", text_anchor="middle"))
    return "".join(parts)


def _line(name: str, values: Sequence[float | None], style: int, x: Scale, y: Scale) -> str:
    """One series: a path broken at its holes, and a marker with a tooltip a layer."""
    steps, marks, pen_up = [], [], True
    for layer, value in enumerate(values):
        if value is None:
            pen_up = True
            continue
        steps.append(f"{'M' if pen_up else 'L'}{coordinate(x(layer))} {coordinate(y(value))}")
        marks.append(marker(style, x(layer), y(value), 2.6, f"layer {layer}, {name}: {number(value)}"))
        pen_up = False
    return element("path", d="".join(steps), class_=f"line s{style}") + "".join(marks)


def _legend(styles: Mapping[str, int], left: float, y: float) -> str:
    parts = []
    for name, (right, down) in _places(styles, left).items():
        style, x, at = styles[name], left + right, y + down
        parts.append(element("path", d=f"M{coordinate(x)} {coordinate(at)}h26", class_=f"line s{style}"))
        parts.append(marker(style, x + 13, at, 3.0))
        parts.append(words(x + 32, at + 4, clip(name, 32), class_="label"))
    return "".join(parts)


def _places(names: Iterable[str], left: float) -> dict[str, tuple[float, float]]:
    """Where each name of a legend begins, right of and below its first; a full line is followed by another."""
    found, x, y = {}, 0.0, 0.0
    for name in names:
        wide = 50 + 7.2 * len(clip(name, 32))
        if x and left + x + wide > WIDTH:
            x, y = 0.0, y + LEGEND_LINE
        found[name] = (x, y)
        x += wide
    return found


def _further_lines(names: Iterable[str], left: float) -> float:
    """What a legend takes beyond its first line."""
    return max((down for _, down in _places(names, left).values()), default=0.0)


def _peak(name: str, values: Sequence[float | None]) -> str:
    known = [(value, layer) for layer, value in enumerate(values) if value is not None]
    if not known:
        return f"{shorten(name, 60)}: no value"
    (low, at_low), (high, at_high) = min(known), max(known, key=lambda pair: (pair[0], -pair[1]))
    return f"{shorten(name, 60)}: lowest {number(low)} at layer {at_low}, highest {number(high)} at layer {at_high}"


# ---- a grid of changes


@dataclass(frozen=True)
class Steps:
    """Upper bounds of the steps of a grid, smallest first."""

    bounds: tuple[float, ...]

    def of(self, value: float) -> int:
        return next((step for step, bound in enumerate(self.bounds, 1) if value <= bound), len(self.bounds))


def steps_of(values: Sequence[float]) -> Steps:
    """Steps for positive ``values``: equal ratios where they span more than a factor of two, else equal widths."""
    low, high = min(values), max(values)
    if low == high:
        return Steps((high,))
    low = max(low, high / 1e4)
    shares = [step / STEPS for step in range(1, STEPS)]
    if high / low > 2:
        return Steps((*(low * (high / low) ** share for share in shares), high))
    return Steps((*(low + (high - low) * share for share in shares), high))


def grid(key: str, title: str, rows: Mapping[str, Sequence[float | None]]) -> str:
    """One cell a row and layer: a step digit for a change, a dot for an unchanged cell, nothing where there is none."""
    positive = [value for found in rows.values() for value in found if value is not None and value > 0]
    n_layers = max((len(found) for found in rows.values()), default=0)
    if not n_layers:
        return ""
    steps = steps_of(positive) if positive else Steps((0.0,))
    left, top = 118.0, 8.0
    cell = min(max((WIDTH - left) / n_layers, 11.0), 34.0)
    tall = 20.0
    drawn = []
    for row, (name, values) in enumerate(rows.items()):
        y = top + row * tall
        drawn.append(words(left - 8, y + 14, clip(name, 16), class_="label", text_anchor="end"))
        for layer, value in enumerate(values):
            drawn.append(_cell(left + layer * cell, y, cell, tall, value, steps, f"layer {layer}, {name}"))
    bottom = top + len(rows) * tall
    every = max(math.ceil(26 / cell), 1)
    for layer in range(0, n_layers, every):
        drawn.append(words(left + (layer + 0.5) * cell, bottom + 16, str(layer), class_="tick", text_anchor="middle"))
    drawn.append(words(left - 8, bottom + 16, "layer", class_="label", text_anchor="end"))
    size = (max(left + n_layers * cell + 2, 420.0), bottom + 24)
    found = f"{len(rows)} rows, {n_layers} layers. Largest {number(max(positive))}." if positive else "Nothing changed."
    return picture(key, title, found, size, "".join(drawn))


def _cell(x: float, y: float, width: float, height: float, value: float | None, steps: Steps, place: str) -> str:
    if value is None:
        return ""
    step = steps.of(value) if value > 0 else 0
    level = round(step * STEPS / len(steps.bounds)) if step else 0
    box = element("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, class_=f"cell h{level}")
    sign = words(x + width / 2, y + height / 2 + 3.5, str(step) if step else "·", class_=f"step t{level}")
    said = number(value) if value else "unchanged"
    return element("g", words_title(f"{place}: {said}") + box + sign)


def grid_key(rows: Mapping[str, Sequence[float | None]]) -> list[tuple[int, str, str]]:
    """What the step digits of ``grid`` mean: (level of tint, digit, range in words)."""
    positive = [value for found in rows.values() for value in found if value is not None and value > 0]
    meaning = [(0, "·", "unchanged")]
    bounds = steps_of(positive).bounds if positive else ()
    for step, bound in enumerate(bounds, 1):
        level = round(step * STEPS / len(bounds))
        meaning.append((level, str(step), f"up to {bound:.2g}"))
    return meaning


# ---- points of several models in one plane


@dataclass(frozen=True)
class Point:
    """One item's place: ``panel`` is the model, ``kind`` the set it belongs to."""

    panel: str
    kind: str
    x: float
    y: float


def scatter(key: str, title: str, points: Sequence[Point]) -> str:
    """One panel a model side by side, all on the same scales; shapes tell the sets apart."""
    if not points:
        return ""
    panels = list(dict.fromkeys(point.panel for point in points))
    kinds = styles_of(list(dict.fromkeys(point.kind for point in points)))
    top, bottom, gap = 58.0, 272.0, 22.0
    side = (WIDTH - gap * (len(panels) - 1)) / len(panels)
    y = fitted([point.y for point in points], bottom - 8, top + 8, room=0.04)
    drawn = [_legend(kinds, 2.0, 14.0)]
    for place, panel in enumerate(panels):
        left = place * (side + gap)
        x = fitted([point.x for point in points], left + 8, left + side - 8, room=0.04)
        drawn.append(element("rect", x=left, y=top, width=side, height=bottom - top, class_="frame"))
        drawn.append(words(left + 2, top - 8, clip(panel, 24), class_="label"))
        zero = x(0.0)
        if left < zero < left + side:
            drawn.append(element("line", x1=zero, x2=zero, y1=top, y2=bottom, class_="grid"))
        drawn += [
            marker(kinds[point.kind], x(point.x), y(point.y), 3.2, f"{panel}, {point.kind}")
            for point in points
            if point.panel == panel
        ]
    counted = "; ".join(
        f"{panel}: " + ", ".join(f"{sum((p.panel, p.kind) == (panel, kind) for p in points)} {kind}" for kind in kinds)
        for panel in panels
    )
    return picture(
        key, title, f"Points on the same two axes. {shorten(counted, 600)}.", (WIDTH, bottom + 6), "".join(drawn)
    )


# ---- what is won against what it costs


@dataclass(frozen=True)
class Dose:
    """One strength of an edit: how far answers about the concept fall, and unrelated ones; intervals where known."""

    strength: float
    target: float
    unrelated: float
    target_bounds: tuple[float, float] | None
    unrelated_bounds: tuple[float, float] | None
    chosen: bool


def tradeoff(key: str, title: str, unit: str, doses: Sequence[Dose]) -> str:
    """Both effects over the strength, with their intervals; the strength that was taken is marked by a line."""
    if len(doses) < 2:
        return ""
    height, left, right, top, bottom = 250.0, 58.0, WIDTH - 14, 34.0, 206.0
    series = {
        "the concept's answers": (1, [(dose.target, dose.target_bounds) for dose in doses]),
        "unrelated answers": (3, [(dose.unrelated, dose.unrelated_bounds) for dose in doses]),
    }
    reach = [0.0]
    for _, found in series.values():
        reach += [value for value, _ in found] + [bound for _, bounds in found if bounds for bound in bounds]
    y, x = (
        fitted(reach, bottom, top, room=0.06),
        fitted([0.0, *(dose.strength for dose in doses)], left, right, room=0.02),
    )
    drawn = []
    for tick in ticks(y.low, y.high):
        drawn.append(element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="zero" if tick == 0 else "grid"))
        drawn.append(words(left - 8, y(tick) + 4, number(tick, ()), class_="tick", text_anchor="end"))
    for dose in doses:
        at = x(dose.strength)
        if dose.chosen:
            drawn.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="zero"))
        label = f"{number(dose.strength)}{' taken' if dose.chosen else ''}"
        drawn.append(words(at, bottom + 17, label, class_="tick", text_anchor="middle"))
    for name, (style, found) in series.items():
        places = [(x(dose.strength), value, bounds) for dose, (value, bounds) in zip(doses, found, strict=True)]
        path = "".join(
            f"{'L' if step else 'M'}{coordinate(at)} {coordinate(y(v))}" for step, (at, v, _) in enumerate(places)
        )
        drawn.append(element("path", d=path, class_=f"line s{style}"))
        for at, value, bounds in places:
            if bounds:
                drawn.append(
                    element("line", x1=at, x2=at, y1=y(bounds[0]), y2=y(bounds[1]), class_=f"whisker s{style}")
                )
            drawn.append(marker(style, at, y(value), 3.4, f"{name}: {number(value)}"))
    drawn.append(words((left + right) / 2, bottom + 34, "strength of the edit", class_="label", text_anchor="middle"))
    drawn.append(_legend({name: style for name, (style, _) in series.items()}, left, 14.0))
    told = "; ".join(f"at {number(d.strength)}: {number(d.target)} against {number(d.unrelated)}" for d in doses)
    return picture(key, title, f"{unit}. Effect against collateral, {told}.", (WIDTH, height), "".join(drawn))


# ---- rows of values with intervals


@dataclass(frozen=True)
class DotRow:
    """One measurement: series name -> value, and series name -> interval. Each row has its own scale."""

    label: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def dots(key: str, title: str, rows: Sequence[DotRow]) -> str:
    """Each row's values on a scale of its own, whose ends are printed; shapes tell the models apart.

    Shares are drawn from 0 to 1, unless they nearly agree: then they would be a single dot there.
    """
    if not rows:
        return ""
    tall, top, left, right = 34.0, 34.0, 318.0, WIDTH - 74
    used = [name for name in STYLES if any(name in row.values for row in rows)]
    drawn = [_legend({name: STYLES[name] for name in used}, left, 14.0)]
    for index, row in enumerate(rows):
        drawn.append(_dot_row(row, top + index * tall + tall / 2, left, right))
    told = "; ".join(f"{row.label}: " + ", ".join(f"{n} {number(v)}" for n, v in row.values.items()) for row in rows)
    description = f"Every row has its own scale, its ends are printed. {shorten(told, 2000)}."
    return picture(key, title, description, (WIDTH, top + len(rows) * tall + 4), "".join(drawn))


def _dot_row(row: DotRow, y: float, left: float, right: float) -> str:
    reach = [*row.values.values(), *(bound for bounds in row.intervals.values() for bound in bounds)]
    spread = max(reach) - min(reach)
    if min(reach) >= 0 and max(reach) <= 1 and (spread > APART_SHARES or not spread):
        reach += [0.0, 1.0]
    x = fitted(reach, left, right)
    parts = [
        element("g", words_title(row.label) + words(0, y + 4, clip(row.label, 34), class_="label")),
        element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"),
        words(left - 8, y + 4, number(x.low), class_="tick", text_anchor="end"),
        words(right + 8, y + 4, number(x.high), class_="tick"),
    ]
    for name in ("control", "retained", "base", "unlearned"):
        if name in row.values:
            parts.append(_dot(name, row, x, y))
    return "".join(parts)


def _dot(name: str, row: DotRow, x: Scale, y: float) -> str:
    style, value = STYLES[name], row.values[name]
    y += APART[name] if len(row.values) > 1 else 0.0
    bounds = row.intervals.get(name)
    whisker = ""
    if bounds is not None:
        low, high = (x(bound) for bound in bounds)
        whisker = element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{style}")
    return whisker + marker(style, x(value), y, 4.2, f"{name}: {number(value)}")


# ---- one small row of layers


def strip(key: str, title: str, values: Sequence[float | None]) -> str:
    """The change of each layer as a row of bars, small enough for the head of the page."""
    known = [value for value in values if value is not None]
    if not known or max(known) <= 0:
        return ""
    height, top = 40.0, 2.0
    width = WIDTH / len(values)
    y = Scale(0, max(known), height - 1, top)
    bars = []
    for layer, value in enumerate(values):
        size = y(0) - y(value or 0)
        note = words_title(f"layer {layer}: {number(value) if value is not None else 'no value'}")
        box = element("rect", x=layer * width + 1, y=y(0) - size, width=max(width - 2, 1.0), height=max(size, 0.6))
        bars.append(element("g", note + box, class_="bar"))
    return picture(key, title, _peak("change", values) + ".", (WIDTH, height), "".join(bars))
