"""Keys and values of the tokens that a model has read, from which any number of sequences are continued.

transformers' own cache copies all of them for each further token, a quarter of the time of a step with 40 sequences.
Here single tokens are written into room for several of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Protocol, runtime_checkable

import torch

ROOM: Final = 8
"""Tokens for which room is made at a time."""


@runtime_checkable
class KeyValueCache(Protocol):
    """As transformers' models take it; each pass adds its tokens."""

    layers: list[Any]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of further tokens ``[batch, n_heads, n, d]`` to a layer."""

    def batch_repeat_interleave(self, repeats: int, /) -> None:
        """Repeat every row ``repeats`` times, in place."""

    def batch_select_indices(self, indices: torch.Tensor, /) -> None:
        """Keep the rows at ``indices``, in place."""


def no_cache() -> KeyValueCache:
    """An empty cache. Every layer keeps all positions, and windows are masks."""
    from transformers import Cache

    empty: KeyValueCache = Cache(layer_class_to_replicate=_layer_class())
    return empty


def repeated(cache: KeyValueCache, times: int) -> KeyValueCache:
    """A copy of a cache of batch 1 for ``times`` rows; the original can be used again."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(times)
    return copied


def beginning(cache: KeyValueCache, n: int) -> KeyValueCache:
    """A copy of the first ``n`` tokens of a cache, which can be used again."""
    begun = no_cache()
    for layer, states in enumerate(cache.layers):
        begun.update(states.keys[:, :, :n].clone(), states.values[:, :, :n].clone(), layer)
    return begun


def n_bytes(cache: KeyValueCache) -> int:
    """Memory of its keys and values."""
    total: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return total


def gathered(cache: KeyValueCache, rows: torch.Tensor, places: torch.Tensor) -> KeyValueCache:
    """The cache with row ``i`` holding the keys and values of row ``rows[i]`` at ``places[i]`` (``[n_rows, n]``).

    The cache given is used up.
    """
    for layer in cache.layers:
        layer.keys = layer.keys.transpose(1, 2)[rows[:, None], places].transpose(1, 2)
        layer.values = layer.values.transpose(1, 2)[rows[:, None], places].transpose(1, 2)
    return cache


def joined(caches: Sequence[KeyValueCache]) -> KeyValueCache:
    """One cache with the rows of all, padded at the end to the longest; the attention mask must leave the padding out.

    The caches given are used up.
    """
    first, *others = caches
    for layer, *rest in zip(first.layers, *(other.layers for other in others), strict=True):
        layer.keys = _stacked([layer.keys, *(each.keys for each in rest)])
        layer.values = _stacked([layer.values, *(each.values for each in rest)])
        for each in rest:
            each.keys = each.values = None  # only one layer is in memory twice
    return first


def _stacked(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """``[batch, n_heads, n, d]`` each -> the batches one after the other, with the longest ``n``."""
    longest = max(each.shape[2] for each in states)
    return torch.cat([torch.nn.functional.pad(each, (0, 0, 0, longest - each.shape[2])) for each in states])


@cache
def _layer_class() -> type:
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):  # type: ignore[misc]
        """One layer's keys and values ``[batch, n_heads, n, d]``: the beginning of a buffer, once it has grown."""

        keys: torch.Tensor
        values: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.buffers: list[torch.Tensor] = []

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Add the states of further tokens."""
            if not self.is_initialized or key_states.shape[2] > 1:
                self.buffers = []
                grown: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
                return grown
            n, own = self.keys.shape[2], (self.keys, self.values)
            if not self.buffers or not all(map(_has_room, own, self.buffers)):
                self.buffers = [*map(_with_room, own)]
            for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, n : n + 1] = states
            self.keys, self.values = (buffer[:, :, : n + 1] for buffer in self.buffers)
            return self.keys, self.values

    return Layer


def _has_room(states: torch.Tensor, buffer: torch.Tensor) -> bool:
    """Whether ``states`` are the beginning of the buffer, and nothing else has taken their place in the layer."""
    is_beginning = states.data_ptr() == buffer.data_ptr() and states.shape[:2] == buffer.shape[:2]
    return is_beginning and states.shape[2] < buffer.shape[2]


def _with_room(states: torch.Tensor) -> torch.Tensor:
    batch, n_heads, n, d = states.shape
    buffer = states.new_empty(batch, n_heads, n + ROOM, d)
    buffer[:, :, :n] = states
    return buffer
