"""Terminal text of ``audit skill``: what a guard does to queries that it was not fitted on, one row a skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from audit.result import AuditResult, Measurement
from reports.formatting import integer, interval, shorten
from reports.text.layout import number_or_dash, print_indented, printed, table
from reports.text.result import measurements_table
from reports.wording import name_of, text_of

EFFECT_COLUMNS: Final = ("held-out queries of", "scored", "before", "after", "change", "interval", "exact", "after")
INSIDE_COLUMNS: Final = ("held-out queries of", "n", "inside", "interval", "wanted", "reached")


def render_skill(result: AuditResult) -> str:
    """The verdict, then the tables of the region and of the effect, where the guard's kind has them."""
    return printed(lambda console: _skill(console, result))


def _skill(console: Console, result: AuditResult) -> None:
    (finding,) = result.findings
    settings = result.run.settings
    console.print(f"{text_of(finding).label.upper()}  {name_of(finding, 60)}, by {settings['fit']['method']}")
    print_indented(console, shorten(finding.reason, 2_000))
    console.print()
    others = {measurement.metric: measurement for measurement in finding.measurements}
    if (inside := others.pop("held_out_inside", None)) is not None:
        _regions(console, inside)
    if (effect := others.pop("guard_effect", None)) is not None:
        _effect(console, effect)
    if measured := [measurement for measurement in others.values() if measurement.value is not None]:
        console.print()
        console.print(measurements_table(measured))
    for part in settings["parts"]:
        if part["beyond_the_context"]:
            count = integer(part["beyond_the_context"])
            print_indented(console, f"{count} prompts of {part['skill']} exceed the model's context and were skipped.")


def _regions(console: Console, inside: Measurement) -> None:
    for (region, layers), rows in groupby(inside.items, key=lambda row: (row["region"], row["layers"])):
        console.print(f"Inside the {region} of layer{'s' * (',' in str(layers))} {layers}")
        console.print(_inside_table([*rows]))
        console.print()


def _inside_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shares = table(INSIDE_COLUMNS, text_columns=1)
    for row in rows:
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        bounds = interval((row["low"], row["high"]))
        name = f"{row['skill']} ({row['role']})"
        shares.add_row(name, str(row["n"]), number_or_dash(row["inside"]), bounds, row["goal"] or "", reached)
    return shares


def _effect(console: Console, effect: Measurement) -> None:
    console.print(_effect_table(effect.items))
    print_indented(
        console, "Log-probabilities in nats per answer token; exact: share of answers reproduced token for token."
    )
    if effect.not_measured:
        print_indented(console, f"Not measured: {effect.not_measured}.")


def _effect_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    effects = table(EFFECT_COLUMNS, text_columns=1)
    for row in rows:
        numbers = [number_or_dash(row[name]) for name in ("before", "after", "change")]
        bounds = "no interval" if row["low"] is None else interval((row["low"], row["high"]))
        exact = [number_or_dash(row[name]) for name in ("exact_before", "exact_after")]
        effects.add_row(f"{row['skill']} ({row['role']})", str(row["scored"]), *numbers, bounds, *exact)
    return effects
