"""How much of the knowledge is left, on a line from a model that never knew (0) to the base (1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.result import Interval
from reports.charts.series import WIDTH, marker
from reports.charts.svg import Scale, element, picture, text_at, tooltip
from reports.formatting import clip, decimals, number, shorten

LEFT, RIGHT, TOP, ROW = 178.0, WIDTH - 190, 26.0, 30.0
LEAST, MOST = -0.6, 1.3
"""Ends of the line; what lies beyond is drawn there and printed as it is."""


@dataclass(frozen=True)
class ShareRow:
    """One share of the base's knowledge.

    Attributes:
        label: what it is; ``note`` says more in the tooltip.
        style: of the marker; ``None`` for a bar from 0 to ``value``, of shares that would not have been seen.
    """

    label: str
    note: str
    value: float
    interval: Interval | None
    style: int | None


def share_line(key: str, title: str, rows: Sequence[ShareRow], margin: float, zero: str) -> str:
    """One row a share; the part of the line that counts as removed is shaded.

    Args:
        margin: share below which knowledge counts as removed.
        zero: what has a share of 0.
    """
    if not rows:
        return ""
    x = _scale(rows)
    bottom = TOP + ROW * len(rows)
    shaded = element("rect", x=x(x.low), y=TOP, width=x(margin) - x(x.low), height=bottom - TOP, class_="band")
    parts = [shaded, text_at(x(margin) - 5, TOP - 8, f"removed: below {number(margin)}", class_="label end")]
    for value, label, anchor in ((0.0, f"0: {zero}", "middle"), (1.0, "1: the base", "middle")):
        parts.append(element("line", x1=x(value), x2=x(value), y1=TOP, y2=bottom + 5, class_="zero"))
        parts.append(text_at(x(value), bottom + 19, label, class_="label", text_anchor=anchor))
    parts += [_row(row, x, TOP + ROW * (place + 0.5)) for place, row in enumerate(rows)]
    told = "; ".join(f"{row.label}: {_value(row)}" for row in rows)
    description = f"0 is {zero}, 1 is the base; below {number(margin)} counts as removed. {shorten(told, 1_000)}."
    return picture(key, title, description, (WIDTH, bottom + 28), "".join(parts))


def _scale(rows: Sequence[ShareRow]) -> Scale:
    """From below 0 to above 1, and further where a value or an interval asks for it."""
    values = [bound for row in rows for bound in (row.value, *(row.interval or ()))]
    return Scale(max(min(-0.12, *values), LEAST), min(max(1.08, *values), MOST), LEFT, RIGHT)


def _row(row: ShareRow, x: Scale, y: float) -> str:
    parts = [
        element("g", tooltip(row.note or row.label) + text_at(0, y + 4, clip(row.label, 28), class_="label")),
        element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"),
        text_at(RIGHT + 10, y + 4, _value(row), class_="tick"),
    ]
    if row.style is None:
        parts.append(
            element("rect", x=x(0.0), y=y - 4, width=x(max(row.value, 0.0)) - x(0.0), height=8.0, class_="unseen")
        )
        return "".join(parts)
    if row.interval is not None:
        low, high = map(x, row.interval)
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{row.style}"))
    parts.append(marker(row.style, x(row.value), y, 5.0, f"{row.label}: {_value(row)}"))
    return "".join(parts)


def _value(row: ShareRow) -> str:
    return decimals(row.value) + (f" ({' to '.join(map(decimals, row.interval))})" if row.interval else "")
