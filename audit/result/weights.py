"""What changed between the weights of two models: by tensor, by layer, by FFN neuron."""

from __future__ import annotations

from pydantic import Field

from audit.result.measurement import Measurement, Number, Record


class TensorChange(Record):
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


class LayerChange(Record):
    """All tensors of one layer together, and its FFN by neuron."""

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
    """One FFN neuron that moved, and what its value vector promotes in vocabulary space."""

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
    changed_tensors: int
    total_tensors: int
    changed_fraction: Number
    per_tensor: list[TensorChange] = Field(default_factory=list)
    per_layer: list[LayerChange] = Field(default_factory=list)
    top_neurons: list[NeuronChange] = Field(default_factory=list)
    themes: list[str] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)
