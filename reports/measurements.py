"""Any ``Measurement`` as a block of the page, drawn from its record alone: nothing here names a metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from audit.result import Interval, Measurement
from reports import charts
from reports.formatting import distinct, integer, number, shorten, slug
from reports.questions import by_question
from reports.tables import BLANK, Cell, Table, bounds, explained, figure, items_table, layers_table, text
from reports.wording import HIGHER, BaseComparison, compare_to_base, sentence, title_of

FEW = 30
"""Below this number of items the page says that the interval alone should not decide a verdict."""
MOST_SERIES = 12
"""Series drawn for one measurement; the table behind the chart has more."""


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


def grouped(measurements: Sequence[Measurement], shown: Sequence[MeasuredView]) -> list[Group]:
    """``shown`` by the question it answers, the worst news first; tests that were not measured come last."""
    groups = []
    missing: list[MeasuredView] = []
    for question, places in by_question(measurements).items():
        measured = [shown[place] for place in places if measurements[place].value is not None]
        missing += [shown[place] for place in places if measurements[place].value is None]
        groups.append(Group(question, measured))
    return [group for group in [*groups, Group("Not measured", missing)] if group.measured]


def views(measurements: Sequence[Measurement], prefix: str) -> list[MeasuredView]:
    """One block a measurement, with the anchor ``prefix-metric``."""
    anchors = anchors_of(measurements, prefix)
    return [_view(measurement, anchor) for measurement, anchor in zip(measurements, anchors, strict=True)]


def anchors_of(measurements: Iterable[Measurement], prefix: str) -> list[str]:
    """One anchor a measurement, all different."""
    return distinct(f"{prefix}-{slug(measurement.metric)}" for measurement in measurements)


def _view(measurement: Measurement, anchor: str) -> MeasuredView:
    title = title_of(measurement, 120)
    layers, items, details = measurement.layers, measurement.items, measurement.details
    return MeasuredView(
        anchor=anchor,
        title=title,
        metric=shorten(measurement.metric, 60),
        sentence=sentence(measurement),
        comparison=compare_to_base(measurement),
        numbers=_numbers(measurement, title),
        facts=list(_facts(measurement)),
        charts=[chart for chart in _charts(measurement, anchor, title) if chart],
        layers=layers_table(f"{title}: the data of the chart", layers) if layers else None,
        items=items_table(f"{title}: item by item", items) if items else None,
        details=[(shorten(key, 80).replace("_", " "), explained(value)) for key, value in details.items()],
    )


def _charts(measurement: Measurement, anchor: str, title: str) -> Iterable[str]:
    """Over layers, in a plane, over the strengths of an edit; empty where the measurement has no such data."""
    layers_unit = shorten(measurement.layers_unit or "", 80)
    series = dict(islice(measurement.layers.items(), MOST_SERIES))
    # Series with a unit of their own share an axis, whatever their size.
    for place, group in enumerate([series] if layers_unit else charts.groups_by_size(series)):
        unit = layers_unit or shorten(measurement.unit, 80)
        yield charts.lines(f"{anchor}-chart-{place}", f"{title}, by layer", unit, group, axis_label=layers_unit)
    yield charts.scatter(f"{anchor}-plane", f"{title}, item by item", _points(measurement))
    yield charts.dose_curve(f"{anchor}-doses", f"{title}, by strength", measurement.unit, _doses(measurement))


def _points(measurement: Measurement) -> list[charts.Point]:
    """The items that have a place in a plane, for each model: rows with ``model``, ``set``, ``x`` and ``y``."""
    return [
        charts.Point(shorten(str(row["model"]), 40), shorten(str(row["set"]), 60), float(x), float(y))
        for row in measurement.items
        if {"model", "set"} <= row.keys()
        and isinstance(x := row.get("x"), float)
        and isinstance(y := row.get("y"), float)
    ]


def _doses(measurement: Measurement) -> list[charts.Dose]:
    """The items that are strengths of an edit: rows with ``strength``, ``target`` and ``unrelated``."""
    doses = []
    for row in measurement.items:
        strength, target, unrelated = (row.get(name) for name in ("strength", "target", "unrelated"))
        if isinstance(strength, float) and isinstance(target, float) and isinstance(unrelated, float):
            intervals = _interval(row, "target"), _interval(row, "unrelated")
            doses.append(charts.Dose(strength, (target, unrelated), intervals, bool(row.get("chosen"))))
    return doses


def _interval(row: Mapping[str, object], name: str) -> Interval | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return (low, high) if isinstance(low, float) and isinstance(high, float) else None


def _numbers(measurement: Measurement, title: str) -> Table | None:
    """The number of every model that has one, each with its interval, and the control's."""
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


def _facts(measurement: Measurement) -> Iterable[tuple[str, str]]:
    """Unit, direction, number of items and p-value, in words."""
    if measurement.unit:
        yield "unit", shorten(measurement.unit)
    yield "direction", HIGHER[measurement.direction]
    if measurement.value is None:
        return
    if measurement.n is not None:
        few = (
            f", fewer than {FEW}: too few for a verdict on their own"
            if measurement.n < FEW and measurement.interval
            else ""
        )
        yield "n", integer(measurement.n) + few
    if measurement.interval is None:
        yield "interval", "none recorded: the number is exact, or its spread was not sampled"
    if measurement.control is None:
        yield "control", "none recorded"
    if measurement.p_value is not None:
        against = f" (null: {shorten(measurement.null)})" if measurement.null else ""
        yield "p-value", number(measurement.p_value) + against


def dot_rows(measurements: Iterable[Measurement]) -> list[charts.DotRow]:
    """One row for each measured number that has a base or a control to compare with."""
    return [
        _dot_row(measurement)
        for measurement in measurements
        if measurement.value is not None and (measurement.base is not None or measurement.control is not None)
    ]


def _dot_row(measurement: Measurement) -> charts.DotRow:
    control = measurement.control
    values = {
        "base": measurement.base,
        "unlearned": measurement.value,
        "retained": measurement.retained,
        "control": control.value if control else None,
    }
    intervals = {
        "base": measurement.base_interval,
        "unlearned": measurement.interval,
        "control": control.interval if control else None,
    }
    return charts.DotRow(
        title_of(measurement, 120),
        {name: value for name, value in values.items() if value is not None},
        {name: bounds for name, bounds in intervals.items() if bounds is not None},
    )
