"""Control vectors: for each value vector others of its layer with the nearest norm, which do not write the concept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from audit.errors import ConceptError
from audit.models.ffn import value_vectors
from audit.models.opening import OpenedModel
from concepts.neuron import Neuron

Controls = Callable[[Sequence[Neuron]], Sequence[Neuron]]
"""Gives one control for each neuron, in the same order."""


def matched_controls(
    model: OpenedModel,
    neurons: Sequence[Neuron],
    *,
    per_vector: int,
    candidates: Collection[Neuron] = (),
) -> list[Neuron]:
    """For each of ``neurons`` the ``per_vector`` others of its layer with the nearest norm, with its sign.

    The controls of one neuron follow each other, in the order of ``neurons``. None is used twice, and none is one of
    ``neurons`` or of ``candidates`` (neurons that may write the concept).

    Raises:
        ConceptError: a layer has too few other value vectors.
        ModelError: the model is of no supported family.
    """
    architecture = model.require_architecture()
    taken = {*neurons, *candidates}
    norms = {
        layer: value_vectors(model.checkpoint, architecture, layer).norm(dim=1)
        for layer in sorted({place.layer for place in neurons})
    }
    controls: list[Neuron] = []
    for place in neurons:
        of_layer = norms[place.layer]
        nearest = (of_layer - of_layer[place.neuron]).abs().argsort(stable=True).tolist()
        others = (Neuron(place.layer, neuron, place.sign) for neuron in nearest)
        free = [other for other in others if other not in taken][:per_vector]
        if len(free) < per_vector:
            raise ConceptError(f"layer {place.layer} has too few value vectors to serve as controls.")
        taken |= set(free)
        controls += free
    return controls
