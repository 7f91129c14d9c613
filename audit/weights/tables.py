"""The tensor table and the layer table, filled in by the metrics' observers."""

from __future__ import annotations

from collections.abc import Mapping

from audit.architectures import Architecture
from audit.plugins import PluginError
from audit.result import Column, ColumnValue, LayerChange, Measurement, TensorChange
from audit.result.weights import TableName
from audit.weights.blocks import SharedTensor
from audit.weights.contract import Columns, Observer, WeightsMetric
from audit.weights.neuron_table import NeuronTable


class ChangeTables:
    """One observer for each metric, and the rows that they fill in."""

    def __init__(self, architecture: Architecture | None, metrics: Mapping[str, WeightsMetric]) -> None:
        self.metrics = metrics
        self.observers: dict[str, Observer[object]] = {
            name: metric.Observer(architecture) for name, metric in metrics.items()
        }

    def tensor(self, tensor: SharedTensor, changed: bool, results: Mapping[str, object]) -> TensorChange:
        """One tensor's row, from the results of its tallies by metric."""
        given = {name: observer.add(tensor, results[name]) for name, observer in self.observers.items()}
        columns = self._columns("tensor", given, TensorChange)
        return TensorChange.model_validate(tensor.header | {"changed": changed} | columns)

    def layer(self, layer: int) -> LayerChange:
        """One layer's row, once every tensor has been added."""
        given = {name: observer.layer(layer) for name, observer in self.observers.items()}
        return LayerChange.model_validate({"layer": layer} | self._columns("layer", given, LayerChange))

    def columns(self) -> list[Column]:
        """What the metrics declare."""
        return [column for metric in self.metrics.values() for column in metric.COLUMNS]

    def measurements(self) -> list[Measurement]:
        """The number of each metric, once every tensor has been added."""
        return [
            observer.measure().named(name, self.metrics[name].TITLE, "weights")
            for name, observer in self.observers.items()
        ]

    def neurons(self) -> NeuronTable | None:
        """The change of every FFN neuron, where a metric keeps it."""
        tables = (observer.neuron_table() for observer in self.observers.values())
        return next((table for table in tables if table is not None), None)

    def _columns(
        self, table: TableName, given: Mapping[str, Columns], record: type[TensorChange] | type[LayerChange]
    ) -> dict[str, ColumnValue]:
        """The metrics' values in one row; ``None`` in a declared column that got none.

        Raises:
            PluginError: a value for a column that its metric does not declare.
        """
        row: dict[str, ColumnValue] = {}
        for name, metric in self.metrics.items():
            declared = {column.name for column in metric.COLUMNS if table in column.tables}
            if undeclared := given[name].keys() - declared:
                raise PluginError(
                    f"audit.metrics.weights.{name} fills in {', '.join(sorted(undeclared))} of the {table} table, "
                    "which its COLUMNS does not declare."
                )
            row |= dict.fromkeys(sorted(declared - record.model_fields.keys()))
            row |= given[name]
        return row
