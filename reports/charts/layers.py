"""Series over layers: a line chart, and the strip of bars at the head of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.charts.series import STYLES, WIDTH, Series, legend, legend_overflow, marker, styles_of, vertical_axis
from reports.charts.svg import Scale, coordinate, element, fitted, picture, text_at, tooltip
from reports.formatting import clip, number, shorten

FAR_APART = 30.0
"""Ratio of largest values from which two series get charts of their own."""
LEFT, RIGHT = 58.0, WIDTH - 14


def groups_by_size(series: Series) -> list[Series]:
    """``series`` in groups that can share one axis, so that a small one is not drawn as a flat line."""
    groups: list[dict[str, Sequence[float | None]]] = []
    largest = {name: max((abs(v) for v in values if v is not None), default=0.0) for name, values in series.items()}
    for name, values in series.items():
        for group in groups:
            top = max(largest[other] for other in group)
            known = name in STYLES and set(group) <= set(STYLES)
            if known or not top or not largest[name] or 1 / FAR_APART <= largest[name] / top <= FAR_APART:
                group[name] = values
                break
        else:
            groups.append({name: values})
    return [*groups]


def lines(key: str, title: str, unit: str, series: Series, axis_label: str = "", marked: int | None = None) -> str:
    """One line a series.

    Args:
        axis_label: added to the label of the layer axis.
        marked: layer at which a vertical line is drawn.
    """
    values = [value for row in series.values() for value in row if value is not None]
    n_layers = max((len(row) for row in series.values()), default=0)
    if not values:
        return ""
    styles = styles_of(list(series))
    top = 34.0 + legend_overflow(styles, LEFT)
    bottom, height = top + 178, top + 216
    y = fitted(values, bottom, top, room=0.06)
    x = Scale(0, max(n_layers - 1, 1), LEFT, RIGHT)
    parts = [vertical_axis(y, LEFT, RIGHT), _layer_axis(x, n_layers, bottom, axis_label)]
    if marked is not None:
        parts.append(element("line", x1=x(marked), x2=x(marked), y1=top, y2=bottom, class_="zero"))
    parts += [_line(name, row, styles[name], x, y) for name, row in series.items()]
    parts.append(legend(styles, LEFT))
    extremes = "; ".join(_extremes(name, row) for name, row in series.items())
    description = f"{unit or 'Value'} by layer, {n_layers} layers. {extremes}."
    return picture(key, title, description, (WIDTH, height), "".join(parts))


def _layer_axis(x: Scale, n_layers: int, bottom: float, axis_label: str) -> str:
    every = max(math.ceil(n_layers / 16), 1)
    parts = [
        text_at(x(layer), bottom + 17, str(layer), class_="tick", text_anchor="middle")
        for layer in range(0, n_layers, every)
    ]
    label = clip(f"layer ({axis_label})" if axis_label else "layer", 90)
    parts.append(text_at((LEFT + RIGHT) / 2, bottom + 34, label, class_="label", text_anchor="middle"))
    return "".join(parts)


def _line(name: str, values: Sequence[float | None], style: int, x: Scale, y: Scale) -> str:
    """One series: a path broken at its holes, and a marker with a tooltip for each layer."""
    steps, marks, pen_up = [], [], True
    for layer, value in enumerate(values):
        if value is None:
            pen_up = True
            continue
        steps.append(f"{'M' if pen_up else 'L'}{coordinate(x(layer))} {coordinate(y(value))}")
        marks.append(marker(style, x(layer), y(value), 2.6, f"layer {layer}, {name}: {number(value)}"))
        pen_up = False
    return element("path", d="".join(steps), class_=f"line s{style}") + "".join(marks)


def _extremes(name: str, values: Sequence[float | None]) -> str:
    known = [(value, layer) for layer, value in enumerate(values) if value is not None]
    if not known:
        return f"{shorten(name, 60)}: no value"
    (low, at_low), (high, at_high) = min(known), max(known, key=lambda pair: (pair[0], -pair[1]))
    return f"{shorten(name, 60)}: lowest {number(low)} at layer {at_low}, highest {number(high)} at layer {at_high}"


def strip(key: str, title: str, values: Sequence[float | None]) -> str:
    """One bar a layer; nothing if no layer changed."""
    known = [value for value in values if value is not None]
    if not known or max(known) <= 0:
        return ""
    height, top = 40.0, 2.0
    width = WIDTH / len(values)
    y = Scale(0, max(known), height - 1, top)
    bars = []
    for layer, value in enumerate(values):
        size = y(0) - y(value or 0)
        note = tooltip(f"layer {layer}: {number(value) if value is not None else 'no value'}")
        box = element("rect", x=layer * width + 1, y=y(0) - size, width=max(width - 2, 1.0), height=max(size, 0.6))
        bars.append(element("g", note + box, class_="bar"))
    return picture(key, title, _extremes("change", values) + ".", (WIDTH, height), "".join(bars))
