"""A neuron of a model's feed-forward networks: the one type for every place that is searched, edited or traced."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Neuron:
    """An FFN neuron and the side of its value vector that writes the concept.

    Compared and hashed by ``layer`` and ``neuron`` alone: both signs name the same value vector.

    Attributes:
        layer, neuron: counted from 0; the value vector is row ``neuron`` of the layer's ``W_out``.
        sign: +1 or -1; the concept's tokens are the largest entries of ``sign * W_U W_out[neuron]``.
    """

    layer: int
    neuron: int
    sign: int = field(default=1, compare=False)
