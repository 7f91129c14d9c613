"""Terminal text of ``audit unlearn``: what was done with how many examples, and the losses of some of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from rich.console import Console

from reports.formatting import integer
from reports.text.layout import number_or_dash, print_indented, printed, table

MOST_ROWS: Final = 9


class Training(Protocol):
    """What is shown of a training run's record."""

    @property
    def method(self) -> str: ...
    @property
    def examples(self) -> Mapping[str, int]: ...
    @property
    def trajectory(self) -> Sequence[Mapping[str, float]]: ...


def render_unlearning(record: Training) -> str:
    return printed(lambda console: _unlearning(console, record))


def _unlearning(console: Console, record: Training) -> None:
    examples = ", ".join(f"{integer(count)} to {kind}" for kind, count in record.examples.items() if count)
    trained = f"{integer(len(record.trajectory))} steps" if record.trajectory else "nothing trained"
    console.print(f"{record.method}, {trained}; examples: {examples or 'none'}")
    console.print()
    if record.trajectory:
        columns = list(record.trajectory[0])
        steps = table(columns, text_columns=0)
        for place in dict.fromkeys(np.linspace(0, len(record.trajectory) - 1, MOST_ROWS).round().astype(int).tolist()):
            row = record.trajectory[place]
            steps.add_row(*(number_or_dash(row.get(name)) for name in columns))
        console.print(steps)
    console.print()
    print_indented(console, "Whether the knowledge was removed or only hidden is another question: audit compare.")
