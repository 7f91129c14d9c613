"""Shared pieces of terminal text: width, character set, tables, labelled and indented paragraphs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from textwrap import wrap
from typing import Final, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reports.formatting import decimals, number, visible

WIDTH: Final = 100
LABEL: Final = 13
"""Columns of a label."""
ASCII: Final = str.maketrans(
    {"−": "-", "–": "-", "…": "...", "↓": "v", "↑": "^", "≈": "~", "─": "-", "━": "-", "╶": "-", "╴": "-", "·": ","}
)


def printed(draw: Callable[[Console], None]) -> str:
    """What ``draw`` prints: no string is read as markup, no trailing blanks, only characters the terminal has."""
    stream = StringIO()
    draw(Console(file=stream, width=WIDTH, markup=False, emoji=False, highlight=False, color_system=None))
    return encodable("\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n"))


def encodable(text: str) -> str:
    """``text`` unchanged for a UTF-8 terminal, in ASCII for any other."""
    if (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8":
        return text
    return text.translate(ASCII).encode("ascii", "backslashreplace").decode("ascii")


def table(columns: Sequence[str], text_columns: int) -> Table:
    """A table whose first ``text_columns`` columns are text and whose other columns are numbers."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for place, name in enumerate(columns):
        is_text = place < text_columns
        side: Literal["left", "right"] = "left" if is_text else "right"
        made.add_column(name, justify=side, no_wrap=not is_text, ratio=1 if is_text else None, overflow="fold")
    return made


def print_indented(console: Console, text: str) -> None:
    console.print(Padding(Text(text), (0, 0, 0, 2)))


def print_labelled(console: Console, label: str, text: str) -> None:
    """``text`` to the right of its label; further lines start below its first."""
    grid = Table.grid(padding=0)
    grid.add_column(width=LABEL, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(label, text)
    console.print(grid)


def labelled_lines(label: str, text: str) -> list[str]:
    """The same as lines, indented; long words (paths, hashes) are never broken, so that they can be copied."""
    first, later = f"  {label:<{LABEL}} ", " " * (LABEL + 3)
    return wrap(visible(text), WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False)


def labelled_rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """(label, text) pairs as lines."""
    for label, text in rows:
        yield from labelled_lines(label, text)


def blocks(parts: Iterable[Sequence[str]]) -> str:
    """Blocks of lines with an empty line between them."""
    return encodable("\n\n".join("\n".join(lines) for lines in parts))


def number_or_dash(value: object) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else "–"


def share_or_dash(value: float | None) -> str:
    return "–" if value is None else decimals(value)
