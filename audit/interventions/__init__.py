"""Interventions: edits of chosen value vectors. Each file of this folder is one method (contract ``Intervention``).

``target`` gives the rows that a method would write at full strength, and changes nothing. ``dose`` goes any part of the
way there, so an edit can be tried (``audit.vectors.effects``) before it is applied, and all methods have one scale of
strength: 0 leaves the model unchanged, 1 is the method in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.errors import AuditError
from audit.models.ffn import value_rows
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.plugins import discover
from audit.progress import SILENT, Progress
from concepts.neuron import Neuron


@dataclass(frozen=True)
class Rows:
    """Some value vectors of one layer.

    Attributes:
        neurons: ascending, each once.
        values: row ``i`` is the value vector of ``neurons[i]``, float32 on the CPU.
    """

    neurons: tuple[int, ...]
    values: Float[Tensor, "n d_model"]


Change = Mapping[int, Rows]
"""Layer -> the value vectors that an edit writes."""


@dataclass(frozen=True)
class EditInputs:
    """What a method may read, apart from the model and the neurons.

    Attributes:
        tokens: ids of the concept's tokens, the most typical first.
        W_U: the head, float32.
        forget, retain: examples, for methods that train.
        raw: noise of the paper's standard deviation, instead of one in proportion to the vector.
        everywhere: project every value vector of the model, not only the chosen ones.
        seed: of all random draws.
    """

    tokens: Int[np.ndarray, " n_tokens"]
    W_U: Float[Tensor, "d_vocab d_model"]
    forget: Sequence[Example] = ()
    retain: Sequence[Example] = ()
    raw: bool = False
    everywhere: bool = False
    seed: int = 0
    progress: Progress = SILENT


class Intervention(Protocol):
    """A file of this folder.

    Attributes:
        DOSES: strengths that are tried.
        DRAWS: number of seeds over which the dose curve is averaged; 1 for a method without random draws.
        TRAINS: whether ``target`` trains, which takes minutes.
    """

    TITLE: str
    DOSES: tuple[float, ...]
    DRAWS: int
    TRAINS: bool

    def target(self, model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs, /) -> Change:
        """The value vectors of ``neurons`` after the edit at full strength; ``model`` stays unchanged."""


@cache
def methods() -> dict[str, Intervention]:
    """Every intervention by name, in alphabetical order."""
    return discover(__name__, Intervention)


def stored_rows(model: RunningModel, neurons: Sequence[Neuron]) -> dict[int, Rows]:
    """The value vectors of ``neurons`` as the model stores them.

    Raises:
        AuditError: see ``by_layer``.
    """
    return {
        layer: Rows(tuple(chosen), value_rows(model, layer)[chosen].to("cpu", torch.float32, copy=True))
        for layer, chosen in by_layer(model, neurons).items()
    }


def dose(model: RunningModel, target: Change, strength: float) -> Change:
    """``stored + strength * (target - stored)``; exactly the stored rows at 0, and exactly ``target`` at 1."""
    if strength == 1:
        return target
    change = {}
    for layer, rows in target.items():
        stored = value_rows(model, layer)[list(rows.neurons)].to("cpu", torch.float32, copy=True)
        change[layer] = Rows(rows.neurons, stored + strength * (rows.values - stored) if strength else stored)
    return change


def apply(model: RunningModel, change: Change) -> None:
    """Write the rows into ``model``, in place, in its own number format; every other weight keeps its bits."""
    for layer, rows in change.items():
        stored = value_rows(model, layer)
        stored[list(rows.neurons)] = rows.values.to(stored.device, stored.dtype)


def by_layer(model: RunningModel, neurons: Sequence[Neuron]) -> dict[int, list[int]]:
    """Layer -> neurons, both ascending.

    Raises:
        AuditError: ``neurons`` is empty, repeats one, or has one that the model does not have.
    """
    if not neurons:
        raise AuditError("no value vectors were chosen, so there is nothing to edit.")
    architecture = model.architecture
    chosen: dict[int, list[int]] = {}
    for layer, neuron in sorted((place.layer, place.neuron) for place in neurons):
        if not (0 <= layer < architecture.n_layers and 0 <= neuron < architecture.d_mlp):
            raise AuditError(
                f"there is no value vector (layer {layer}, neuron {neuron}) in a model of "
                f"{architecture.n_layers} layers of {architecture.d_mlp} neurons."
            )
        if neuron in chosen.setdefault(layer, []):
            raise AuditError(f"the value vector (layer {layer}, neuron {neuron}) is given twice.")
        chosen[layer].append(neuron)
    return chosen


def places(change: Change) -> list[list[int]]:
    """``[[layer, neuron], ...]``, the form of unlearning.json."""
    return [[layer, neuron] for layer, rows in change.items() for neuron in rows.neurons]


def cosines(before: Float[Tensor, "n d_model"], after: Float[Tensor, "n d_model"]) -> list[float | None]:
    """Cosine of each row before and after, ``None`` if one of the two is zero."""
    defined = (before.norm(dim=1) > 0) & (after.norm(dim=1) > 0)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    return [value if known else None for value, known in zip(cosine.tolist(), defined.tolist(), strict=True)]
