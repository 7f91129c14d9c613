"""Differences between the weights of two models, by tensor, layer and FFN neuron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from audit.result.measurement import Measurement, Number, Record, finite_or_null

ColumnValue = int | float | Sequence[Number] | None
ColumnKind = Literal["number", "share", "list"]
TableName = Literal["tensor", "layer"]

OWN_FIELDS: Final = ("name", "role", "layer", "shape", "dtype", "changed")
"""Fields that identify the tensor or layer of a row; all others are columns of metrics."""


class Column(Record):
    """A column of the tensor table or the layer table, as declared by the metric that fills it.

    Attributes:
        name: the key in the rows of ``per_tensor`` and ``per_layer``; letters, digits, underscores.
        title: the heading.
        unit: unit of the values.
        kind: how a value is shown: as it is, as a percentage, or the first entry of a list.
        tables: the tables that have the column.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    title: str
    unit: str = ""
    kind: ColumnKind = "number"
    tables: tuple[TableName, ...] = ("tensor",)


class ChangeRow(Record):
    """A row of a table: the fields of the record, and further columns declared in ``Weights.columns``."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ColumnValue] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def null_where_not_finite(cls, row: Any) -> Any:
        return finite_or_null(row)


class TensorChange(ChangeRow):
    """Change of one tensor; the optional fields are ``None`` for unchanged tensors and where undefined."""

    name: str
    role: str | None
    layer: int | None
    shape: list[int]
    dtype: str
    changed: bool
    relative_change: Number
    cosine: Number
    l2: Number
    stable_rank: Number = None
    singular_values: list[float] = Field(default_factory=list)
    flipped_4bit: Number = None
    flipped_8bit: Number = None


class LayerChange(ChangeRow):
    """Change of all tensors of one layer together, and the number of changed FFN neurons."""

    layer: int
    relative_change: Number
    cosine: Number
    l2: Number
    flipped_4bit: Number = None
    flipped_8bit: Number = None
    changed_value_vectors: int | None = None
    changed_key_rows: int | None = None
    total_neurons: int | None = None


class NeuronChange(Record):
    """One changed FFN neuron, and the tokens that its value vector promotes in vocabulary space."""

    layer: int
    neuron: int
    relative_change: Number
    cosine: Number
    l2: Number
    key_relative_change: Number = None
    tokens_before: list[str] = Field(default_factory=list)
    tokens_after: list[str] = Field(default_factory=list)
    tokens_demoted: list[str] = Field(default_factory=list)


class Weights(Record):
    """The comparison of all weights.

    Attributes:
        identical: whether both models have the same parameters, bit for bit; ``None`` in documents that do not say.
        equal_at_coarser: the number format to which parameters were rounded for the comparison, if they are equal in it
            and the checkpoints store them in different formats.
        only_base, only_unlearned: names of tensors that the other model has not, or in another shape; not compared.
        columns: descriptions of the columns of ``per_tensor`` and ``per_layer``, from the metrics that fill them.
    """

    changed_tensors: int
    total_tensors: int
    changed_fraction: Number
    identical: bool | None = None
    equal_at_coarser: str | None = None
    only_base: list[str] = Field(default_factory=list)
    only_unlearned: list[str] = Field(default_factory=list)
    columns: list[Column] = Field(default_factory=list)
    per_tensor: list[TensorChange] = Field(default_factory=list)
    per_layer: list[LayerChange] = Field(default_factory=list)
    top_neurons: list[NeuronChange] = Field(default_factory=list)
    themes: list[str] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)

    @model_validator(mode="after")
    def further_columns_are_declared(self) -> Weights:
        tables: dict[TableName, Sequence[ChangeRow]] = {"tensor": self.per_tensor, "layer": self.per_layer}
        for table, rows in tables.items():
            declared = {column.name for column in self.columns if table in column.tables}
            undeclared = {name for row in rows for name in row.model_extra or () if name not in declared}
            if undeclared:
                raise ValueError(
                    f"columns of the {table} table that are not declared: {', '.join(map(repr, sorted(undeclared)))}"
                )
        return self
