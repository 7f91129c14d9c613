"""Any ``Measurement`` as a block of the page: it knows the record, never the metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from audit.result import Measurement
from reports import figures
from reports.formatting import distinct, integer, number, shorten, slug
from reports.tables import BLANK, Cell, Table, bounds, explained, figure, items_table, layers_table, text
from reports.wording import HIGHER, BaseComparison, compare_to_base, sentence

FEW = 30
"""Below this many items an interval is shown and no verdict should rest on it alone."""
MOST_SERIES = 12
"""Series drawn of one measurement; the table behind the chart has more."""


@dataclass(frozen=True)
class MeasuredView:
    """What the template prints of one measurement."""

    anchor: str
    title: str
    metric: str
    sentence: str
    comparison: BaseComparison
    numbers: Table | None
    facts: Sequence[tuple[str, str]]
    charts: Sequence[str]
    layers: Table | None
    items: Table | None
    details: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """Measurements that answer one question."""

    title: str
    measured: Sequence[MeasuredView]


QUESTIONS: Final = {
    "Is the knowledge still there?": ("knowledge", "forgetting"),
    "Does the protection hold?": ("protection",),
    "What changed inside?": ("change",),
    "Is the rest of the model sound?": ("utility", "none"),
}
"""By direction, so that a new metric finds its place without being named here."""


def grouped(measurements: Sequence[Measurement], shown: Sequence[MeasuredView]) -> list[Group]:
    """``shown`` by the question it answers, in the order of the questions; what was not measured comes last."""
    pairs = list(zip(measurements, shown, strict=True))
    groups = [
        Group(title, [view for found, view in pairs if found.value is not None and found.direction in directions])
        for title, directions in QUESTIONS.items()
    ]
    groups.append(Group("Not measured", [view for found, view in pairs if found.value is None]))
    return [group for group in groups if group.measured]


def views(measurements: Sequence[Measurement], prefix: str) -> list[MeasuredView]:
    """Blocks with the anchors ``prefix-metric``."""
    anchors = anchors_of(measurements, prefix)
    return [view(found, anchor) for found, anchor in zip(measurements, anchors, strict=True)]


def anchors_of(measurements: Iterable[Measurement], prefix: str) -> list[str]:
    """One anchor a measurement, each its own."""
    return distinct(f"{prefix}-{slug(found.metric)}" for found in measurements)


def view(measurement: Measurement, anchor: str) -> MeasuredView:
    title = shorten(measurement.title or measurement.metric, 120)
    drawn = dict(list(measurement.layers.items())[:MOST_SERIES])
    told = str(measurement.details.get("layers", ""))  # where the series have a unit of their own, they share an axis
    unit = shorten(told or measurement.unit, 80)
    charts = [
        figures.lines(f"{anchor}-chart-{place}", f"{title}, by layer", unit, group, shorten(told, 80))
        for place, group in enumerate([drawn] if told else figures.comparable(drawn))
    ]
    charts.append(figures.scatter(f"{anchor}-plane", f"{title}, item by item", points(measurement)))
    charts.append(figures.tradeoff(f"{anchor}-doses", f"{title}, by strength", measurement.unit, doses(measurement)))
    return MeasuredView(
        anchor=anchor,
        title=title,
        metric=shorten(measurement.metric, 60),
        sentence=sentence(measurement),
        comparison=compare_to_base(measurement),
        numbers=numbers(measurement, title),
        facts=list(facts(measurement)),
        charts=[chart for chart in charts if chart],
        layers=layers_table(f"{title}: the data of the chart", measurement.layers) if measurement.layers else None,
        items=items_table(f"{title}: item by item", measurement.items) if measurement.items else None,
        details=[(shorten(key, 80).replace("_", " "), explained(found)) for key, found in measurement.details.items()],
    )


def points(measurement: Measurement) -> list[figures.Point]:
    """The items that have a place in a plane, for each model: rows with ``model``, ``set``, ``x`` and ``y``."""
    return [
        figures.Point(shorten(str(row["model"]), 40), shorten(str(row["set"]), 60), float(x), float(y))
        for row in measurement.items
        if {"model", "set"} <= row.keys()
        and isinstance(x := row.get("x"), float)
        and isinstance(y := row.get("y"), float)
    ]


def doses(measurement: Measurement) -> list[figures.Dose]:
    """The items that are strengths of an edit: rows with ``strength``, ``target`` and ``unrelated``."""
    found = []
    for row in measurement.items:
        strength, target, unrelated = (row.get(name) for name in ("strength", "target", "unrelated"))
        if isinstance(strength, float) and isinstance(target, float) and isinstance(unrelated, float):
            pairs = [(row.get(f"{name}_low"), row.get(f"{name}_high")) for name in ("target", "unrelated")]
            limits = [(a, b) if isinstance(a, float) and isinstance(b, float) else None for a, b in pairs]
            found.append(figures.Dose(strength, target, unrelated, limits[0], limits[1], bool(row.get("chosen"))))
    return found


def numbers(measurement: Measurement, title: str) -> Table | None:
    """The number for every model it exists for, each with its interval, and the control."""
    if measurement.value is None:
        return None
    rows: list[list[Cell]] = []
    if measurement.base is not None:
        rows.append([text("base"), figure(measurement.base), bounds(measurement.base_interval)])
    rows.append([text("unlearned"), figure(measurement.value), bounds(measurement.interval)])
    if measurement.retained is not None:
        rows.append([text("retained"), figure(measurement.retained), BLANK])
    control = measurement.control
    if control is not None:
        rows.append([text(f"control: {control.name}"), figure(control.value), bounds(control.interval)])
    return Table(f"{title}: the numbers", ["model", "value", "interval"], rows)


def facts(measurement: Measurement) -> Iterable[tuple[str, str]]:
    """Unit, direction, number of items and p-value, in words."""
    if measurement.unit:
        yield "unit", shorten(measurement.unit)
    yield "direction", HIGHER[measurement.direction]
    if measurement.value is None:
        return
    if measurement.n is not None:
        few = f", fewer than {FEW}: not enough to rest on alone" if measurement.n < FEW and measurement.interval else ""
        yield "n", integer(measurement.n) + few
    if measurement.interval is None:
        yield "interval", "none was recorded: the number is exact, or its spread was not sampled"
    if measurement.control is None:
        yield "control", "none was recorded"
    if measurement.p_value is not None:
        null = measurement.details.get("null")
        against = f" (null: {shorten(str(null))})" if null else ""
        yield "p-value", number(measurement.p_value) + against


def dot_rows(measurements: Iterable[Measurement]) -> list[figures.DotRow]:
    """One row for each measured number that has something to stand beside."""
    rows = []
    for found in measurements:
        if found.value is None or (found.base is None and found.control is None):
            continue
        control = found.control.value if found.control else None
        values = {"base": found.base, "unlearned": found.value, "retained": found.retained, "control": control}
        intervals = {
            "base": found.base_interval,
            "unlearned": found.interval,
            "control": found.control.interval if found.control else None,
        }
        rows.append(
            figures.DotRow(
                shorten(found.title or found.metric, 120),
                {name: value for name, value in values.items() if value is not None},
                {name: value for name, value in intervals.items() if value is not None},
            )
        )
    return rows
