"""Terminal text of ``audit unlearn``: what was done with how many examples, some of the steps, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any, Final, Protocol

import numpy as np
from rich.console import Console

from reports.formatting import integer, number, percent
from reports.text.layout import number_or_dash, print_indented, printed, table

MOST_ROWS: Final = 9
SAID: Final = ("answers", "probability of a token before", "now", "log-probability before", "now (nats)")


class Training(Protocol):
    """What is shown of a training run's record."""

    @property
    def method(self) -> str: ...
    @property
    def examples(self) -> Mapping[str, int]: ...
    @property
    def trajectory(self) -> Sequence[Mapping[str, float]]: ...
    @property
    def changed(self) -> Mapping[str, Any]: ...
    @property
    def said(self) -> Mapping[str, tuple[float, float]]: ...


def render_unlearning(record: Training) -> str:
    return printed(lambda console: _unlearning(console, record))


def _unlearning(console: Console, record: Training) -> None:
    examples = ", ".join(f"{integer(count)} to {kind}" for kind, count in record.examples.items() if count)
    trained = f"{integer(len(record.trajectory))} steps" if record.trajectory else "nothing trained"
    console.print(f"{record.method}, {trained}; examples: {examples or 'none'}")
    if "rank" in record.changed:
        modules = ", ".join(record.changed["modules"])
        console.print(f"Adapters of rank {record.changed['rank']} were trained, and added to the weights of {modules}.")
    console.print()
    if record.trajectory:
        _steps(console, record.trajectory)
        print_indented(console, "Each row is of the step's batch, before its update.")
        console.print()
    if record.said:
        said = table(SAID, text_columns=1)
        for name, values in record.said.items():
            said.add_row(f"to {name}", *(percent(exp(value)) for value in values), *map(number, values))
        console.print(said)
        console.print()
    print_indented(console, "Whether the knowledge was removed or only hidden is another question: audit compare.")


def _steps(console: Console, trajectory: Sequence[Mapping[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in trajectory for name in row))  # a second training may record others
    steps = table(columns, text_columns=0)
    for place in dict.fromkeys(np.linspace(0, len(trajectory) - 1, MOST_ROWS).round().astype(int).tolist()):
        row = trajectory[place]
        steps.add_row(*(number_or_dash(row.get(name)) for name in columns))
    console.print(steps)
