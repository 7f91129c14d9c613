"""The page's sections about the weights: where they changed, which neurons changed most, their themes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.result import AuditResult, Column, ColumnValue, LayerChange, NeuronChange, TensorChange, Weights
from audit.result.weights import OWN_FIELDS, ChangeRow, TableName
from reports import charts
from reports.formatting import integer, percent, shorten
from reports.measurements import MeasuredView, views
from reports.tables import BLANK, MOST_COLUMNS, Cell, Table, capped, code, figure
from reports.wording import most_changed, weights_summary

TOP = 15
"""Tensors listed before the full table."""
MOST_ROLES = 16
MOST_LAYERS = 10_000
"""A layer number from here on is not one: no row of that length is drawn for it."""
MOST_TOKENS = 10


@dataclass(frozen=True)
class WeightsView:
    summary: str
    strip: str
    last_layer: int
    grid: str
    grid_key: Sequence[tuple[int, str, str]]
    grid_table: Table | None
    themes: Sequence[str]
    neurons: Table | None
    top: Table | None
    tensors: Table | None
    layers: Table | None
    measured: Sequence[MeasuredView]


def weights_view(result: AuditResult) -> WeightsView:
    weights = result.weights
    rows = by_role(weights)
    changed = most_changed(weights)
    return WeightsView(
        summary=weights_summary(weights),
        strip=charts.strip("strip", "Change of each layer's weights", per_layer_change(weights)),
        last_layer=max(len(per_layer_change(weights)) - 1, 0),
        grid=charts.grid("layer-grid", "Relative change by layer and role", rows) if rows else "",
        grid_key=charts.grid_key(rows) if rows else (),
        grid_table=grid_table(rows) if rows else None,
        themes=[shorten(theme, 60) for theme in weights.themes[:40]],
        neurons=neurons_table(weights.top_neurons) if weights.top_neurons else None,
        top=tensors_table("The tensors that changed most", weights, changed[:TOP]) if changed else None,
        tensors=tensors_table("Every tensor", weights, weights.per_tensor) if weights.per_tensor else None,
        layers=layers_table(weights) if weights.per_layer else None,
        measured=views(weights.measurements, "weights"),
    )


def per_layer_change(weights: Weights) -> list[float | None]:
    """Relative change by layer, layer 0 first; ``None`` where it is not recorded."""
    known = {row.layer: row.relative_change for row in weights.per_layer if 0 <= row.layer < MOST_LAYERS}
    return [known.get(layer) for layer in range(max(known, default=-1) + 1)]


def by_role(weights: Weights) -> dict[str, list[float | None]]:
    """Role -> relative change by layer; the whole layer first."""
    layers = per_layer_change(weights)
    placed = [(t.layer, t) for t in weights.per_tensor if t.layer is not None and 0 <= t.layer < MOST_LAYERS]
    n_layers = max([len(layers), *(layer + 1 for layer, _ in placed)])
    rows: dict[str, list[float | None]] = {"whole layer": layers + [None] * (n_layers - len(layers))} if layers else {}
    for layer, tensor in placed:
        role = tensor.role or "other"
        if role not in rows and len(rows) > MOST_ROLES:
            continue
        row = rows.setdefault(role, [None] * n_layers)
        row[layer] = max(row[layer] or 0.0, tensor.relative_change or 0.0)
    return rows


def grid_table(rows: dict[str, list[float | None]]) -> Table:
    """The data behind the grid, one row a layer."""
    n_layers = len(next(iter(rows.values())))
    cells = ([figure(layer), *(figure(values[layer]) for values in rows.values())] for layer in range(n_layers))
    return capped("Relative change by layer and role", ["layer", *(shorten(n, 24) for n in rows)], cells, n_layers)


def neurons_table(neurons: Sequence[NeuronChange]) -> Table:
    columns = [
        "layer",
        "neuron",
        "promotes before",
        "promotes after",
        "demotes after",
        "relative change",
        "cosine",
        "key change",
    ]
    rows = (
        [
            figure(neuron.layer),
            Cell(str(neuron.neuron), "", "n"),
            tokens(neuron.tokens_before),
            after(neuron),
            tokens(neuron.tokens_demoted),
            figure(neuron.relative_change),
            figure(neuron.cosine),
            figure(neuron.key_relative_change),
        ]
        for neuron in neurons
    )
    return capped("The neurons whose value vectors changed most", columns, rows, len(neurons))


def after(neuron: NeuronChange) -> Cell:
    """What it promotes after unlearning, or that this is the same as before."""
    same = neuron.tokens_before and neuron.tokens_before == neuron.tokens_after
    return Cell("the same", "", "w") if same else tokens(neuron.tokens_after)


def tokens(listed: Sequence[str]) -> Cell:
    """The first tokens of a list, and how many more there are."""
    if not listed:
        return Cell("–", "", "w")
    shown = " · ".join(shorten(token, 30) or "(space)" for token in listed[:MOST_TOKENS])
    more = f" and {integer(len(listed) - MOST_TOKENS)} more" if len(listed) > MOST_TOKENS else ""
    return Cell(shown + more, "", "w")


def tensors_table(caption: str, weights: Weights, tensors: Sequence[TensorChange]) -> Table:
    columns = columns_of(weights, "tensor")
    rows = (
        [
            code(tensor.name, 80),
            code(" × ".join(str(size) for size in tensor.shape)),
            *(
                Cell("unchanged", "0", "n")
                if column.name == "relative_change" and not tensor.changed
                else column_cell(column, tensor)
                for column in columns
            ),
        ]
        for tensor in tensors
    )
    return capped(caption, ["tensor", "shape", *headings(columns)], rows, len(tensors))


def layers_table(weights: Weights) -> Table:
    columns = columns_of(weights, "layer")
    rows = ([figure(layer.layer), *(column_cell(column, layer) for column in columns)] for layer in weights.per_layer)
    caption = "Every layer: its tensors together, and how many of its neurons changed"
    return capped(caption, ["layer", *headings(columns)], rows, len(weights.per_layer))


def columns_of(weights: Weights, table: TableName) -> list[Column]:
    """The metrics' columns of a table: fields of the record first, then the further ones that are declared.

    A field that is not declared (in a result of an earlier version) has its name as title.
    """
    record = TensorChange if table == "tensor" else LayerChange
    declared = {column.name: column for column in weights.columns if table in column.tables}
    fields = [name for name in record.model_fields if name not in OWN_FIELDS]
    columns = {name: Column(name=name, title=name.replace("_", " ")) for name in fields} | declared
    return list(columns.values())[:MOST_COLUMNS]


def headings(columns: Sequence[Column]) -> list[str]:
    return [shorten(column.title, 40) for column in columns]


def column_cell(column: Column, row: ChangeRow) -> Cell:
    value: ColumnValue = getattr(row, column.name, None)
    if isinstance(value, Sequence):
        return figure(value[0]) if value else BLANK
    return share(value) if column.kind == "share" else figure(value)


def share(value: float | None) -> Cell:
    return BLANK if value is None else Cell(percent(value), repr(value), "n")
