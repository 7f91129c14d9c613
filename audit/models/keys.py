"""Key vectors of many prompts at every layer, from one pass without the head.

A key vector is the FFN's post-activation, the input of its output matrix. One float16 vector is kept for each prompt
and layer, at the last token or as the mean over tokens: 2 * n_layers * d_mlp bytes a prompt. The mean leaves the first
token out: whatever it is, attention gathers there, and its key is the same large vector for every prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from audit.errors import ModelError
from audit.models.forward import expert_keys, padded
from audit.models.hooks import by_layer, on_inputs
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress

Pool = Literal["last", "mean", "both"]
"""Which vectors are kept for a prompt: the keys at its last token, the means of the keys at its tokens, or the
last-token keys of all layers followed by the mean keys of all layers."""

Mask = Shaped[Tensor, "n length"]
"""An attention mask: 1 or true at tokens, 0 or false at padding."""

KeyRows = Float[np.ndarray, "n n_readings d_mlp"]
"""Key vectors in float16."""

TOKENS_AT_ONCE = 2**12
"""Padded tokens of one batch; one layer's activations of them take 25 MB in float32 at d_mlp 1,536."""


def last_places(mask: Mask) -> Int[Tensor, " n"]:
    """Index of the last token of each row of an attention mask."""
    return (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1)


def last_keys(keys: Float[Tensor, "n length d_mlp"], mask: Mask) -> Float[Tensor, "n d_mlp"]:
    """The keys at the last token of each prompt, in float32; padding may be on either side."""
    return keys[torch.arange(len(keys), device=keys.device), last_places(mask).to(keys.device)].float()


def mean_keys(keys: Float[Tensor, "n length d_mlp"], mask: Mask) -> Float[Tensor, "n d_mlp"]:
    """The mean over each prompt's tokens but the first, in float32; for a prompt of one token, that token's key."""
    mask = mask.long()
    later = mask * (mask.cumsum(dim=1) > 1)
    counted = torch.where(mask.sum(dim=1, keepdim=True) > 1, later, mask).to(keys.device)
    return torch.bmm(counted[:, None].to(keys.dtype), keys)[:, 0].float() / counted.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Keys:
    """Key vectors of some prompts.

    Attributes:
        rows: one row for each prompt that was read, in the order given; ``n_readings`` is the number of layers, or
            twice that for the pool ``both``.
        kept: index of each row's prompt in the sequence given.
        skipped: indices of the prompts that are longer than the model's context; they have no row.
    """

    rows: KeyRows
    kept: tuple[int, ...]
    skipped: tuple[int, ...]


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
    skipped = tuple(index for index, ids in enumerate(prompts) if len(ids) > model.context)
    n_readings = model.architecture.n_layers * (2 if pool == "both" else 1)
    rows = np.empty((len(kept), n_readings, model.architecture.d_mlp), dtype=np.float16)
    done = 0
    for batch in _batches([len(prompts[index]) for index in kept], batch_size):
        rows[batch] = _read(model, [prompts[kept[number]] for number in batch], pool)
        if not np.isfinite(rows[batch]).all():
            raise ModelError(
                f"a key vector of the model in {model.model.dtype} is not a finite number in float16.",
                hint="Run the model with --dtype float32; a float16 key holds values up to 65,504.",
            )
        done += len(batch)
        progress.step("Reading key vectors", done, len(kept))
    return Keys(rows, kept, skipped)


def collect_each(
    model: RunningModel,
    sets: Sequence[Sequence[Sequence[int]]],
    *,
    pool: Pool = "last",
    batch_size: int = 20,
    progress: Progress = SILENT,
) -> list[KeyRows]:
    """The keys of several sets of prompts from one pass, whose batches hold prompts of similar length of any set.

    One array for each set, as ``Keys.rows``; a prompt longer than the context has no row.
    """
    keys = collect(model, [*chain(*sets)], pool=pool, batch_size=batch_size, progress=progress)
    ends = np.cumsum([len(prompts) for prompts in sets])[:-1]
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


def _read(model: RunningModel, prompts: Sequence[Sequence[int]], pool: Pool) -> KeyRows:
    """One forward pass without the head."""
    arguments = padded(model, prompts, 0)
    with torch.inference_mode(), _pooling(model, arguments["attention_mask"], pool) as layers:
        model.model.base_model(**arguments, use_cache=False)
    ordered = [layers[layer] for layer in range(model.architecture.n_layers)]
    pooled = [torch.stack(vectors, dim=1) for vectors in zip(*ordered, strict=True)]
    rows: np.ndarray = torch.cat(pooled, dim=1).half().cpu().numpy()
    return rows


@contextmanager
def _pooling(model: RunningModel, mask: Mask, pool: Pool) -> Iterator[dict[int, tuple[Float[Tensor, "n d_mlp"], ...]]]:
    """Pool each layer's keys as they pass, in the one pass that runs inside: a tensor for each way, by layer."""
    architecture = model.architecture
    pooled: dict[int, tuple[Tensor, ...]] = {}
    ways = {"last": (last_keys,), "mean": (mean_keys,), "both": (last_keys, mean_keys)}[pool]

    def take(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        keys = args[0].reshape(*mask.shape, -1)  # OPT's FFN sees all rows as one
        pooled[layer] = tuple(way(keys, mask) for way in ways)

    def take_experts(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        states, index, weights = args
        if pool == "last":  # every expert is computed at the last tokens alone
            places = torch.arange(len(mask), device=mask.device) * mask.shape[1] + last_places(mask)
            pooled[layer] = (expert_keys(module, states[places], index[places], weights[places]).float(),)
            return
        keys = expert_keys(module, states, index, weights).reshape(*mask.shape, -1)
        pooled[layer] = tuple(way(keys, mask) for way in ways)

    hook = take_experts if architecture.n_experts else take
    with on_inputs(model.model, by_layer(architecture.out_module, range(architecture.n_layers), hook), once=True):
        yield pooled
