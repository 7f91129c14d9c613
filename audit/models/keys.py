"""Key vectors of many prompts at every layer, from one pass without the head.

A key vector is the FFN's post-activation, the input of its output matrix. Kept is one float16 row a prompt and layer,
at the last token or as the mean over tokens: 2 * n_layers * d_mlp bytes a prompt. The first token is left out of the
mean: whatever it is, models gather attention there, and its key is the same large vector for every prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from audit.errors import ModelError
from audit.models.forward import expert_keys, padded
from audit.models.hooks import by_layer, on_inputs
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress

Pool = Literal["last", "mean", "both"]
"""Which vector stands for a prompt: the key at its last token, the mean of the keys at its tokens, or the last-token
keys of all layers followed by the mean keys of all layers."""

TOKENS_AT_ONCE = 2**12
"""Padded tokens of one batch; one layer's activations of them take 25 MB in float32 at d_mlp 1,536."""


def last_places(mask: torch.Tensor) -> torch.Tensor:
    """Of the last token of each row of an attention mask ``[n]``."""
    return (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1)


def last_keys(keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """At the last token of each prompt ``[n, d_mlp]`` float32, from keys ``[n, length, d_mlp]`` padded on any side."""
    return keys[torch.arange(len(keys), device=keys.device), last_places(mask).to(keys.device)].float()


def mean_keys(keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over each prompt's tokens but the first; of a prompt of one token, that token's ``[n, d_mlp]``."""
    mask = mask.long()
    later = mask * (mask.cumsum(dim=1) > 1)
    counted = torch.where(mask.sum(dim=1, keepdim=True) > 1, later, mask).to(keys.device)
    return torch.bmm(counted[:, None].to(keys.dtype), keys)[:, 0].float() / counted.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Keys:
    """Key vectors of some prompts.

    Attributes:
        rows: one row a prompt that was read, in the order given ``[n, n_layers, d_mlp]`` float16; twice as many
            layers where both are pooled.
        kept: index of each row's prompt in the sequence given.
        refused: indices of the prompts longer than the model's context; they have no row.
    """

    rows: np.ndarray
    kept: tuple[int, ...]
    refused: tuple[int, ...]


def collect(
    model: RunningModel,
    prompts: Sequence[Sequence[int]],
    *,
    pool: Pool = "last",
    batch_size: int = 20,
    progress: Progress = SILENT,
) -> Keys:
    """The keys of ``prompts``, each a sequence of token ids.

    Raises:
        ModelError: a prompt is empty, or a key is not a finite number (in float16).
    """
    empty = next((index for index, ids in enumerate(prompts) if not ids), None)
    if empty is not None:
        raise ModelError(f"prompt {empty} holds no token.", hint="Leave empty prompts out.")
    kept = tuple(index for index, ids in enumerate(prompts) if len(ids) <= model.context)
    refused = tuple(index for index, ids in enumerate(prompts) if len(ids) > model.context)
    architecture = model.architecture
    d_key = architecture.d_mlp
    n_readings = architecture.n_layers * (2 if pool == "both" else 1)
    rows = np.empty((len(kept), n_readings, d_key), dtype=np.float16)
    done = 0
    for batch in _batches([len(prompts[index]) for index in kept], batch_size):
        rows[batch] = _read(model, [prompts[kept[number]] for number in batch], pool)
        if not np.isfinite(rows[batch]).all():
            raise ModelError(
                f"a key vector of the model in {model.model.dtype} is not a finite number in float16.",
                hint="Run the model with --dtype float32; values above 65,504 have no place in a float16 key.",
            )
        done += len(batch)
        progress.step("Reading key vectors", done, len(kept))
    return Keys(rows, kept, refused)


def collect_each(
    model: RunningModel,
    sets: Sequence[Sequence[Sequence[int]]],
    *,
    pool: Pool = "last",
    batch_size: int = 20,
    progress: Progress = SILENT,
) -> list[np.ndarray]:
    """The keys of several sets of prompts from one pass, whose batches hold prompts of similar length of any set.

    One array a set ``[n, n_layers, d_mlp]`` float16, as ``Keys.rows``; a prompt longer than the context has no row.
    """
    keys = collect(model, [ids for some in sets for ids in some], pool=pool, batch_size=batch_size, progress=progress)
    ends = np.cumsum([len(some) for some in sets])[:-1]
    return np.split(keys.rows, np.searchsorted(keys.kept, ends))


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length, at most ``batch_size`` and ``TOKENS_AT_ONCE`` together."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[index] > TOKENS_AT_ONCE):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _read(model: RunningModel, prompts: Sequence[Sequence[int]], pool: Pool) -> np.ndarray:
    """One forward pass without the head ``[n, n_readings, d_mlp]`` float16."""
    arguments = padded(model, prompts, 0)
    with torch.inference_mode(), _pooling(model, arguments["attention_mask"], pool) as taken:
        model.model.base_model(**arguments, use_cache=False)
    layers = [taken[layer] for layer in range(model.architecture.n_layers)]
    stacked: np.ndarray = (
        torch.cat([torch.stack(pooled, dim=1) for pooled in zip(*layers, strict=True)], dim=1).half().cpu().numpy()
    )
    return stacked


@contextmanager
def _pooling(model: RunningModel, mask: torch.Tensor, pool: Pool) -> Iterator[dict[int, tuple[torch.Tensor, ...]]]:
    """Pool each layer's keys, ``[n, d_mlp]`` float32 each way, by layer, in the pass that runs inside."""
    architecture = model.architecture
    taken: dict[int, tuple[torch.Tensor, ...]] = {}
    ways = {"last": (last_keys,), "mean": (mean_keys,), "both": (last_keys, mean_keys)}[pool]

    def take(layer: int, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if architecture.n_experts and pool == "last":  # every expert is computed where it is read, and nowhere else
            places = torch.arange(len(mask), device=mask.device) * mask.shape[1] + last_places(mask)
            taken[layer] = (expert_keys(module, *(arg[places] for arg in args)).float(),)
            return
        keys = expert_keys(module, *args) if architecture.n_experts else args[0]
        keys = keys.reshape(*mask.shape, -1)
        taken[layer] = tuple(way(keys, mask) for way in ways)

    layers = range(architecture.n_layers)
    with on_inputs(model.model, by_layer(architecture.out_module, layers, take), once=True):
        yield taken
