"""Selective pruning, the paper's baseline: neurons more active under the skill than elsewhere are set to 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from audit.guards.activity import Activity
from audit.guards.sites import Sites
from audit.models.hooks import on_inputs
from concepts.adjust import SPREAD_FLOOR, top_share

TITLE = "Selective pruning"


def fit(forget: Activity, retain: Activity, share: float, layers: Sequence[int] = ()) -> Guard:
    """The ``share`` of the neurons of ``layers``, all if empty, whose mean absolute key grows most over ``retain``."""
    scores = forget.key_size / np.maximum(retain.key_size, SPREAD_FLOOR)
    return Guard(top_share(scores, share, layers), share, tuple(layers))


@dataclass(frozen=True)
class Guard:
    """``neurons`` are (layer, neuron) ``[k, 2]`` of ``layers``."""

    METHOD: ClassVar[str] = "prune"
    neurons: np.ndarray
    share: float
    layers: tuple[int, ...] = ()

    def attach(self, model: torch.nn.Module, sites: Sites) -> ExitStack:
        def silence(columns: Tensor, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            key = inputs[0].clone()
            key[..., columns] = 0
            return (key, *inputs[1:])

        layers = np.unique(self.neurons[:, 0]).tolist()
        columns = {layer: torch.from_numpy(self.neurons[self.neurons[:, 0] == layer, 1].copy()) for layer in layers}
        return on_inputs(model, {sites.out[layer]: partial(silence, columns[layer]) for layer in layers})

    def fits(self, sites: Sites) -> bool:
        return sites.have(self.neurons)

    def settings(self) -> dict[str, Any]:
        return {"share": self.share, "layers": list(self.layers)}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"neurons": self.neurons}

    @classmethod
    def load(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Guard:
        return cls(arrays["neurons"], **{**settings, "layers": tuple(settings.get("layers", ()))})
