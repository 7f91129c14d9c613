"""Tables as the templates print them: prepared cells under named columns; a shortened table says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from audit.result import Interval, Number
from reports.formatting import integer, interval, number, shorten, visible

MOST_ROWS = 1_000
MOST_COLUMNS = 24
SENTENCE = 24
"""Characters from which a column of items holds sentences, whose words are not broken on a phone."""
MOST_ENTRIES = 40
"""Entries of a list or mapping shown in a cell of details."""
DEEPEST = 4


class Cell(NamedTuple):
    """``text`` to show; ``exact`` for the tooltip and for sorting; ``kind``: n number, t text, c code, w wide text."""

    text: str
    exact: str = ""
    kind: str = "t"
    href: str = ""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    @property
    def body(self) -> Markup:
        """The rows as HTML, the first cell of each a header. Not in a template: a page has thousands of cells."""
        lines = (
            "".join(_cell_html(cell, "td" if place else "th") for place, cell in enumerate(row)) for row in self.rows
        )
        return Markup("".join(f"<tr>{line}</tr>\n" for line in lines))

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers."""
        first = self.rows[0] if self.rows else ()
        return [cell.kind == "n" for cell in first] or [False] * len(self.columns)


def _cell_html(cell: Cell, tag: str) -> str:
    inner = _escaped(cell.text)
    if cell.href:
        inner = f'<a href="#{_escaped(cell.href)}">{inner}</a>'
    scope = ' scope="row"' if tag == "th" else ""
    title = f' title="{_escaped(cell.exact)}"' if cell.exact else ""
    return f'<{tag}{scope} class="{cell.kind}"{title}>{inner}</{tag}>'


def _escaped(text: str) -> str:
    return str(escape(visible(text)))


BLANK = Cell("–", "", "n")


def figure(value: Number | int) -> Cell:
    """A number, with the exact one as tooltip if it was rounded."""
    if value is None:
        return BLANK
    shown = number(value)
    exact = repr(value)
    return Cell(shown, exact if exact.removesuffix(".0") != shown else "", "n")


def bounds(value: Interval | None) -> Cell:
    return Cell(interval(value), f"{value[0]!r} to {value[1]!r}", "n") if value is not None else BLANK


def text(value: object, longest: int = 240) -> Cell:
    return Cell(shorten(str(value), longest), "", "t")


def code(value: object, longest: int = 240) -> Cell:
    return Cell(shorten(str(value), longest), "", "c")


def anything(value: Any) -> Cell:
    """A value of a row of items."""
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return figure(value)
    return BLANK if value is None else text(value)


def capped(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], total: int) -> Table:
    """The first ``MOST_ROWS`` rows, with a note if there are more."""
    kept = list(islice(rows, MOST_ROWS))
    note = ""
    if total > len(kept):
        note = f"The first {integer(len(kept))} of {integer(total)} rows; the others are in the embedded result."
    return Table(caption, columns, kept, note)


def items_table(caption: str, items: Sequence[Mapping[str, Any]]) -> Table:
    """One row an item; columns are the keys of the first."""
    keys = list(items[0])[:MOST_COLUMNS]
    kinds = {key: _kind([row.get(key) for row in items]) for key in keys}
    rows = ([anything(row.get(key))._replace(kind=kinds[key]) for key in keys] for row in items)
    table = capped(caption, [shorten(key, 40).replace("_", " ") for key in keys], rows, len(items))
    hidden = len(items[0]) - len(keys)
    return replace(table, note=f"{table.note} {hidden} more columns are in the embedded result.") if hidden else table


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(values: Sequence[Any]) -> str:
    """``Cell.kind`` of a whole column."""
    if any(_is_number(value) for value in values):
        return "n"
    return "w" if any(isinstance(value, str) and len(value) >= SENTENCE for value in values) else "t"


def layers_table(caption: str, layers: Mapping[str, Sequence[Number]]) -> Table:
    """The data behind a chart over layers."""
    shown = dict(islice(layers.items(), MOST_COLUMNS))
    n_layers = max((len(values) for values in shown.values()), default=0)
    rows = (
        [figure(layer), *(figure(values[layer] if layer < len(values) else None) for values in shown.values())]
        for layer in range(n_layers)
    )
    return capped(caption, ["layer", *(shorten(name, 40) for name in shown)], rows, n_layers)


def explained(value: Any, depth: int = 0) -> str:
    """Any JSON value of ``details`` on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, str):
        return shorten(value, 600)
    if depth >= DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        parts = [f"{shorten(str(key), 60)} {explained(entry, depth + 1)}" for key, entry in _first(value.items())]
        return "; ".join(parts) + _and_more(len(value)) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(explained(entry, depth + 1) for entry in _first(value)) + _and_more(len(value)) or "none"
    return shorten(str(value), 600)


def _first(values: Iterable[Any]) -> Iterable[Any]:
    return islice(values, MOST_ENTRIES)


def _and_more(total: int) -> str:
    return f" and {integer(total - MOST_ENTRIES)} more" if total > MOST_ENTRIES else ""
