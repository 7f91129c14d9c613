"""Moments of every neuron over all tokens of many prompts, in one pass, at constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from audit.errors import ModelError
from audit.guards.sites import Sites
from audit.models.forward import padded
from audit.models.hooks import on_inputs, on_outputs
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from concepts.adjust import SPREAD_FLOOR, Moments


@dataclass(frozen=True)
class Activity:
    """What one set of prompts does to every neuron, ``[n_layers, d_mlp]`` each.

    Attributes:
        pre, keys: moments of the pre-activations and of the key vectors.
        key_size: mean absolute key.
        tokens: over how many tokens.
    """

    pre: Moments
    keys: Moments
    key_size: np.ndarray
    tokens: int


def activity(
    model: RunningModel, prompts: Sequence[Sequence[int]], batch_size: int = 8, progress: Progress = SILENT
) -> Activity:
    """Read ``prompts``, token ids each.

    Raises:
        ModelError: an FFN of experts, no prompts, or an activation that is not a finite number.
    """
    if not prompts:
        raise ModelError("there is no prompt to read.")
    sites = Sites.of(model.architecture)
    shape = (model.architecture.n_layers, sites.d_mlp)
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name in ("pre", "pre2", "key", "key2", "size")}
    mask: list[Tensor] = []

    def add_pre(layer: int, module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        first = sites.first[layer]
        _add(sums, layer, ("pre", "pre2"), output.flatten(0, -2)[mask[0]][:, first : first + sites.d_mlp])

    def add_keys(layer: int, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keys = inputs[0].flatten(0, -2)[mask[0]]
        _add(sums, layer, ("key", "key2"), keys)
        sums["size"][layer] += keys.abs().double().sum(dim=0).cpu()

    pre_hooks = {name: partial(add_pre, layer) for layer, name in enumerate(sites.pre)}
    key_hooks = {name: partial(add_keys, layer) for layer, name in enumerate(sites.out)}
    tokens = 0
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        arguments = padded(model, [prompts[index] for index in order[start : start + batch_size]], 0)
        mask[:] = [arguments["attention_mask"].flatten().bool()]
        with (
            torch.inference_mode(),
            on_outputs(model.model, pre_hooks, once=True),
            on_inputs(model.model, key_hooks, once=True),
        ):
            model.model.base_model(**arguments, use_cache=False)
        tokens += int(mask[0].sum())
        if not all(torch.isfinite(total).all() for total in sums.values()):
            raise ModelError("an activation is not a finite number.", hint="Run the model with --dtype float32.")
        progress.step("Reading activations", min(start + batch_size, len(order)), len(order))
    mean = {name: (total / tokens).numpy() for name, total in sums.items()}
    return Activity(_moments(mean, "pre"), _moments(mean, "key"), mean["size"], tokens)


def _add(sums: dict[str, Tensor], layer: int, names: Iterable[str], values: Tensor) -> None:
    first, second = names
    exact = values.double()
    sums[first][layer] += exact.sum(dim=0).cpu()
    sums[second][layer] += exact.square().sum(dim=0).cpu()


def _moments(mean: dict[str, np.ndarray], name: str) -> Moments:
    variance = np.maximum(mean[f"{name}2"] - mean[name] ** 2, 0)
    return Moments(mean[name], np.maximum(np.sqrt(variance), SPREAD_FLOOR))
