"""The interventions: each sibling module with a function ``edit`` changes chosen value vectors and nothing else.

They work on a model loaded for the purpose, in place, and record what they did.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError, ModelError
from audit.running import RunningModel


class Place(Protocol):
    """Where a value vector is; a ``ConceptVector`` is one. Both count from 0."""

    @property
    def layer(self) -> int: ...

    @property
    def neuron(self) -> int: ...


@cache
def methods() -> dict[str, ModuleType]:
    """Every intervention by name, in alphabetical order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "edit")}


def value_rows(model: RunningModel, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The value vectors of ``layer`` as a view: writing into it changes the model, whichever way it stores them.

    Raises:
        ModelError: a layer of experts; in memory their value vectors have no view as one matrix.
    """
    if model.architecture.n_experts:
        raise ModelError(
            f"single value vectors of {model.architecture.name} cannot be edited: its FFN is made of experts.",
            hint="Choose a method that trains the whole model, or audit the model as it is.",
        )
    stored: Tensor = model.model.get_parameter(model.architecture.names("W_out")[layer]).detach()
    return stored if model.architecture.neuron_axis["W_out"] == 0 else stored.T


def by_layer(model: RunningModel, vectors: Sequence[Place]) -> dict[int, list[int]]:
    """Layer -> neurons, both ascending.

    Raises:
        AuditError: no vectors, one given twice, or one that the model does not have.
    """
    if not vectors:
        raise AuditError("no value vectors were chosen, so there is nothing to edit.")
    architecture = model.architecture
    chosen: dict[int, list[int]] = {}
    for layer, neuron in sorted((vector.layer, vector.neuron) for vector in vectors):
        if not (0 <= layer < architecture.n_layers and 0 <= neuron < architecture.d_mlp):
            raise AuditError(
                f"there is no value vector (layer {layer}, neuron {neuron}) in a model of "
                f"{architecture.n_layers} layers of {architecture.d_mlp} neurons."
            )
        if neuron in chosen.setdefault(layer, []):
            raise AuditError(f"the value vector (layer {layer}, neuron {neuron}) is given twice.")
        chosen[layer].append(neuron)
    return chosen


def places(chosen: dict[int, list[int]]) -> list[list[int]]:
    """``[[layer, neuron], ...]`` for the record."""
    return [[layer, neuron] for layer, neurons in chosen.items() for neuron in neurons]


def cosines(before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]) -> list[float | None]:
    """Cosine of each row with what it was, ``None`` where one of the two is zero."""
    defined = (before.norm(dim=1) > 0) & (after.norm(dim=1) > 0)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    return [value if known else None for value, known in zip(cosine.tolist(), defined.tolist(), strict=True)]
