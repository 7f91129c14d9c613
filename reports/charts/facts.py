"""Facts against conditions, one panel a model: which facts are said, and how the true answer ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports.charts.series import WIDTH
from reports.charts.svg import coordinate, element, picture, text_at, tooltip
from reports.formatting import clip, integer, shorten

STEPS = (
    (0.0, 7, "its true answer is first among the answers of its type"),
    (0.1, 5, "in the best tenth"),
    (0.25, 3, "in the best quarter"),
    (0.5, 1, "in the better half"),
)
"""(largest rank, tint, meaning) of each shade, the best first; lower ranks have none."""
DARK = (5, 7)
"""Tints on which a disc is light."""
AVOIDED = 0.9
"""Rank from which the true answer counts as avoided."""
LABELLED, NARROW = 40, 130
"""Facts up to which each row has a label, and up to which rows are wide enough to be told apart one by one."""
TYPE, LABEL, PANEL_GAP, COLUMN_GAP, GROUP_GAP = 74.0, 104.0, 18.0, 3.0, 6.0
WIDEST, LETTER = 20.0, 6.4


@dataclass(frozen=True)
class FactRow:
    """One fact: the group it stands in, its label, and the text of its tooltip."""

    group: str
    label: str
    note: str


@dataclass(frozen=True)
class FactCell:
    """``rank`` is that of the true answer, 0 for the best and 1 for the last; ``None`` for what was not read."""

    says: bool | None
    rank: float | None


@dataclass(frozen=True)
class Panel:
    """One model: (attack, label) of each column, and one row of cells for each fact."""

    name: str
    columns: Sequence[tuple[str, str]]
    cells: Sequence[Sequence[FactCell]]


@dataclass(frozen=True)
class _Layout:
    """Pixels: left ends of the columns of each panel, tops of the rows, size of a cell."""

    columns: Sequence[Sequence[float]]
    rows: Sequence[float]
    width: float
    height: float
    bottom: float


def fact_grid(key: str, title: str, rows: Sequence[FactRow], panels: Sequence[Panel]) -> str:
    """One row a fact and one column a condition; a disc for a fact that is said, a shade for its rank.

    Cells of one shade are one path, so that hundreds of facts stay small; the tooltip is the row's.
    """
    if not rows or not panels:
        return ""
    layout = _layout(rows, panels)
    parts = [*_row_labels(rows, layout)]
    for panel, columns in zip(panels, layout.columns, strict=True):
        parts += _heads(panel, columns, layout)
        parts += _cells(panel, columns, layout)
    parts += _tooltips(rows, layout)
    told = "; ".join(_told(panel) for panel in panels)
    description = f"{integer(len(rows))} facts. {shorten(told, 3_000)}."
    return picture(key, title, description, (WIDTH, layout.bottom + 4), "".join(parts))


def _layout(rows: Sequence[FactRow], panels: Sequence[Panel]) -> _Layout:
    left = TYPE + (LABEL if len(rows) <= LABELLED else 6.0)
    count = sum(len(panel.columns) for panel in panels)
    gaps = sum(_gaps(panel) for panel in panels) * COLUMN_GAP + PANEL_GAP * (len(panels) - 1)
    width = float(min((WIDTH - left - gaps) // count, WIDEST))
    columns, x = [], left
    for panel in panels:
        places = []
        for place, (group, _) in enumerate(panel.columns):
            x += COLUMN_GAP if place and panel.columns[place - 1][0] != group else 0.0
            places.append(x)
            x += width
        columns.append(places)
        x += PANEL_GAP
    height = 15.0 if len(rows) <= LABELLED else 8.0 if len(rows) <= NARROW else 5.0
    longest = max(len(clip(label, 28)) for panel in panels for _, label in panel.columns)
    y, tops = 24.0 + round(LETTER * longest), []
    for place, row in enumerate(rows):
        y += GROUP_GAP if place and rows[place - 1].group != row.group else 0.0
        tops.append(y)
        y += height
    return _Layout(columns, tops, width, height, y)


def _gaps(panel: Panel) -> int:
    groups = [group for group, _ in panel.columns]
    return sum(one != other for one, other in pairwise(groups))


def _row_labels(rows: Sequence[FactRow], layout: _Layout) -> Iterator[str]:
    for place, (row, top) in enumerate(zip(rows, layout.rows, strict=True)):
        if not place or rows[place - 1].group != row.group:
            yield text_at(0, top + max(layout.height - 4, 6), clip(row.group, 12), class_="label")
        if len(rows) <= LABELLED:
            yield text_at(TYPE + LABEL - 8, top + 11, clip(row.label, 17), class_="tick", text_anchor="end")


def _heads(panel: Panel, columns: Sequence[float], layout: _Layout) -> Iterator[str]:
    """The model's name, and the conditions from bottom to top."""
    yield text_at(columns[0], 11, clip(panel.name, 24), class_="head")
    for (_, label), x in zip(panel.columns, columns, strict=True):
        right, down = coordinate(x + layout.width / 2 + 3.5), coordinate(layout.rows[0] - 6)
        yield text_at(0, 0, clip(label, 28), class_="tick", transform=f"translate({right} {down}) rotate(-90)")


def _cells(panel: Panel, columns: Sequence[float], layout: _Layout) -> Iterator[str]:
    """All cells of one look as one path of short strokes; shades first, then what stands on them."""
    strokes: dict[str, list[str]] = {}
    across, middle = coordinate(layout.width - 1), (layout.height - 1) / 2
    for cells, top in zip(panel.cells, layout.rows, strict=True):
        y = coordinate(top + middle)
        for cell, x in zip(cells, columns, strict=True):
            tint = _tint(cell.rank)
            if tint:
                strokes.setdefault(f"k{tint}", []).append(f"M{coordinate(x)} {y}h{across}")
            if cell.rank is not None and cell.rank >= AVOIDED:
                strokes.setdefault("avoided", []).append(f"M{coordinate(x)} {y}h{across}")
            if cell.says:
                on = "said dark" if tint in DARK else "said"
                strokes.setdefault(on, []).append(f"M{coordinate(x + (layout.width - 1) / 2)} {y}h0")
    yield element("path", d="".join(_asked(panel, columns, layout)), class_="asked", stroke_width=layout.width - 1)
    disc = max(min(layout.width, layout.height) * 0.62, 3.4)
    thickness = {"avoided": 1.2, "said": disc, "said dark": disc}
    for name in sorted(strokes, key=lambda name: (name in thickness, name)):
        width = thickness.get(name, layout.height - 1)
        yield element("path", d="".join(strokes[name]), class_=name, stroke_width=width)


def _asked(panel: Panel, columns: Sequence[float], layout: _Layout) -> Iterator[str]:
    """The ground of the cells that were asked or read: one stroke for neighbours above each other."""
    for place, x in enumerate(columns):
        start: float | None = None
        end = 0.0
        for cells, top in zip(panel.cells, layout.rows, strict=True):
            cell = cells[place]
            asked = cell.says is not None or cell.rank is not None
            if start is not None and (not asked or top > end + 1):
                yield _upright(x, start, end, layout)
                start = None
            if asked:
                start, end = top if start is None else start, top + layout.height - 1
        if start is not None:
            yield _upright(x, start, end, layout)


def _upright(x: float, start: float, end: float, layout: _Layout) -> str:
    return f"M{coordinate(x + (layout.width - 1) / 2)} {coordinate(start)}V{coordinate(end)}"


def _tint(rank: float | None) -> int:
    """The tint of a rank; 0 for none."""
    return 0 if rank is None else next((tint for bound, tint, _ in STEPS if rank <= bound), 0)


def _tooltips(rows: Sequence[FactRow], layout: _Layout) -> Iterator[str]:
    for row, top in zip(rows, layout.rows, strict=True):
        yield element("rect", tooltip(row.note), x=0.0, y=top, width=WIDTH, height=layout.height, class_="hit")


def _told(panel: Panel) -> str:
    """Each condition in words: facts that are said, true answers that are first."""
    parts = []
    for place, (_, label) in enumerate(panel.columns):
        cells = [row[place] for row in panel.cells]
        said, first = sum(bool(cell.says) for cell in cells), sum(cell.rank == 0 for cell in cells)
        read = sum(cell.rank is not None for cell in cells)
        parts.append(f"{label}: {said} said" + (f", {first} of {read} first" if read else ""))
    return f"{panel.name}: {', '.join(parts)}"


def fact_key() -> list[tuple[str, str]]:
    """What the cells of ``fact_grid`` mean: (class of the swatch, meaning)."""
    best = [(f"k{tint}", meaning) for _, tint, meaning in STEPS]
    return [("said", "it says the answer"), *best, ("asked", "in the worse half"), ("avoided", "in the last tenth")]
