"""Selective pruning, the paper's baseline: neurons more active under the skill than elsewhere are set to 0."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from audit.guards.activity import Activity
from audit.guards.methods import FittedGuard, GuardState, WritableGuard
from audit.guards.methods._neurons import NeuronOptions, fit_neurons
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill
from audit.models.ffn import value_rows
from audit.models.hooks import on_inputs
from audit.models.loading import RunningModel
from audit.progress import Progress
from concepts.adjust import SPREAD_FLOOR, top_share


@dataclass(frozen=True)
class PruneOptions(NeuronOptions):
    """``share`` of the neurons of ``layers`` is pruned."""


@dataclass(frozen=True)
class PruneGuard(WritableGuard):
    """Pruned neurons.

    Attributes:
        neurons: (layer, neuron) of each.
        share, layers: see ``PruneOptions``.
    """

    neurons: Int[np.ndarray, "k 2"]
    share: float
    layers: tuple[int, ...] = ()

    def apply(self, model: nn.Module, sites: Sites) -> ExitStack:
        def silence(columns: Tensor, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            key = inputs[0].clone()
            key[..., columns] = 0
            return (key, *inputs[1:])

        hooks = {}
        for layer in np.unique(self.neurons[:, 0]).tolist():
            columns = torch.from_numpy(self.neurons[self.neurons[:, 0] == layer, 1].copy())
            hooks[sites.out[layer]] = partial(silence, columns)
        return on_inputs(model, hooks)

    def matches(self, sites: Sites) -> bool:
        return sites.contain(self.neurons)

    def save(self) -> GuardState:
        return GuardState({"share": self.share, "layers": list(self.layers)}, {"neurons": self.neurons})

    @classmethod
    def load(cls, state: GuardState) -> Self:
        return cls(state.arrays["neurons"], **{**state.settings, "layers": tuple(state.settings.get("layers", ()))})

    def write(self, model: RunningModel) -> dict[str, list[list[int]]]:
        """Set the value vectors of the pruned neurons to 0: they then write nothing, whatever their keys."""
        for layer, neuron in self.neurons.tolist():
            value_rows(model, layer)[neuron] = 0
        return {"value_vectors": self.neurons.tolist()}


TITLE = "Selective pruning"
OPTIONS = PruneOptions
GUARD = PruneGuard


def choose(forget: Activity, retain: Activity, options: PruneOptions) -> PruneGuard:
    """Prune the neurons whose mean absolute key under ``forget`` is largest in proportion to that under ``retain``."""
    scores = forget.key_size / np.maximum(retain.key_size, SPREAD_FLOOR)
    return PruneGuard(top_share(scores, options.share, options.layers), options.share, tuple(options.layers))


def fit(
    model: RunningModel, skills: Sequence[TokenizedSkill], options: PruneOptions, seed: int, progress: Progress
) -> FittedGuard:
    return fit_neurons(model, skills, partial(choose, options=options), seed, progress)
