"""Moments of every neuron over all tokens of many prompts, in one pass, at constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from audit.errors import ModelError
from audit.guards.sites import Sites
from audit.models.forward import padded
from audit.models.hooks import on_inputs, on_outputs
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from concepts.adjust import SPREAD_FLOOR, Moments


@dataclass(frozen=True)
class Activity:
    """What one set of prompts does to every neuron.

    Attributes:
        pre, keys: moments of the pre-activations and of the key vectors ``[n_layers, d_mlp]``.
        key_size: mean absolute key ``[n_layers, d_mlp]``.
        tokens: number of tokens that the means are over.
    """

    pre: Moments
    keys: Moments
    key_size: Float[np.ndarray, "n_layers d_mlp"]
    tokens: int


def read_activity(
    model: RunningModel, prompts: Sequence[Sequence[int]], batch_size: int = 8, progress: Progress = SILENT
) -> Activity:
    """The activity under ``prompts``, token ids each.

    Raises:
        ModelError: an FFN of experts, no prompts, or an activation that is not a finite number.
    """
    if not prompts:
        raise ModelError("there is no prompt to read.")
    sums = _Sums(Sites.from_architecture(model.architecture))
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(prompts), batch_size):
        arguments = padded(model, [prompts[index] for index in by_length[start : start + batch_size]], 0)
        with torch.inference_mode(), sums.reading(model.model, arguments["attention_mask"].flatten().bool()):
            model.model.base_model(**arguments, use_cache=False)
        if not sums.finite():
            raise ModelError("an activation is not a finite number.", hint="Run the model with --dtype float32.")
        progress.step("Reading activations", min(start + batch_size, len(prompts)), len(prompts))
    return sums.result()


class _Sums:
    """Accumulates sums over tokens ``[n_layers, d_mlp]`` float64: values, their squares, and the keys' sizes."""

    NAMES: Final = ("pre", "pre_squared", "key", "key_squared", "key_size")

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.sums = {name: torch.zeros(len(sites.out), sites.d_mlp, dtype=torch.float64) for name in self.NAMES}
        self.tokens = 0

    def reading(self, model: nn.Module, mask: Bool[Tensor, " tokens"]) -> ExitStack:
        """Add what passes through ``model`` at the tokens that ``mask`` marks."""
        self.tokens += int(mask.sum())
        pre = {name: partial(self._add_pre, mask, layer) for layer, name in enumerate(self.sites.pre)}
        keys = {name: partial(self._add_keys, mask, layer) for layer, name in enumerate(self.sites.out)}
        with ExitStack() as stack:
            stack.enter_context(on_outputs(model, pre, once=True))
            stack.enter_context(on_inputs(model, keys, once=True))
            return stack.pop_all()

    def finite(self) -> bool:
        return all(bool(torch.isfinite(total).all()) for total in self.sums.values())

    def result(self) -> Activity:
        mean = {name: (total / self.tokens).numpy() for name, total in self.sums.items()}
        return Activity(
            pre=_moments(mean["pre"], mean["pre_squared"]),
            keys=_moments(mean["key"], mean["key_squared"]),
            key_size=mean["key_size"],
            tokens=self.tokens,
        )

    def _add_pre(self, mask: Tensor, layer: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        first = self.sites.first[layer]
        self._add("pre", layer, output.flatten(0, -2)[mask][:, first : first + self.sites.d_mlp])

    def _add_keys(self, mask: Tensor, layer: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keys = inputs[0].flatten(0, -2)[mask]
        self._add("key", layer, keys)
        self.sums["key_size"][layer] += keys.abs().double().sum(dim=0).cpu()

    def _add(self, name: str, layer: int, values: Float[Tensor, "tokens d_mlp"]) -> None:
        exact = values.double()
        self.sums[name][layer] += exact.sum(dim=0).cpu()
        self.sums[f"{name}_squared"][layer] += exact.square().sum(dim=0).cpu()


def _moments(mean: np.ndarray, mean_square: np.ndarray) -> Moments:
    variance = np.maximum(mean_square - mean**2, 0)
    return Moments(mean, np.maximum(np.sqrt(variance), SPREAD_FLOOR))
