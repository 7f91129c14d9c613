"""Exact unlearning by slices (S3T, Basu Roy Chowdhury et al. 2024, arXiv 2406.16257): what is taught can be removed.

The layers are divided into as many blocks as there are slices of the data, from the top down. Step ``i`` trains
low-rank adapters of block ``i`` on the slices up to ``i``; every other weight stays. To delete a slice, its block and
those trained after it are switched off. What is left was trained before the slice was seen: it is the same bit for bit,
whatever the slice holds. A model that knew a slice before it was taught knows it afterwards too.

Several models, trained on the slices in other orders, let more deletions pass before one must be trained again: the one
with the longest beginning that no deletion has met is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from audit.errors import AuditError
from audit.unlearning.parts import RANK, adapters_below

Text = TypeVar("Text", bound=Hashable)
Block = Mapping[str, Tensor]
"""The weights of some layers by name, as they were before these layers were trained."""
Train = Callable[[Sequence[Text], Sequence[nn.Parameter]], None]
"""Trains these parameters, and no others, on these texts; the same texts give the same weights."""


def teach_slices(
    network: nn.Module,
    layers: Sequence[str],
    slices: Sequence[Sequence[Text]],
    train: Train[Text],
    rank: int = RANK,
    seed: int = 0,
) -> Sequence[Block]:
    """Teach ``network`` every slice, in place; the block of each, for ``delete_slice``.

    Args:
        layers: names of the modules that are divided, the lowest first.
        seed: of the adapters' initial values.

    Raises:
        AuditError: a slice is empty, a text is in two slices, or there are more slices than layers.
    """
    _check(slices, len(layers))
    blocks = []
    for number, chosen in enumerate(np.array_split(layers[::-1], len(slices))):
        texts = [text for each in slices[: number + 1] for text in each]
        before = {name: value.detach().clone() for name, value in _weights(network, chosen.tolist()).items()}
        with adapters_below(network, chosen.tolist(), rank, seed + number, merge=True) as parameters:
            train(texts, parameters)
        blocks.append(before)
    return blocks


@torch.no_grad()
def delete_slice(network: nn.Module, blocks: Sequence[Block], number: int) -> None:
    """Switch off the block of a slice and those trained after it; slices count from 0.

    Raises:
        AuditError: there is no such slice, so that nothing would be deleted.
    """
    if not 0 <= number < len(blocks):
        raise AuditError(f"there is no slice {number} of {len(blocks)}; slices count from 0.")
    weights = dict(network.named_parameters())
    for block in blocks[number:]:
        for name, before in block.items():
            weights[name].copy_(before)


# ---- how many deletions pass


def rotations(n_slices: int, n_orders: int) -> list[tuple[int, ...]]:
    """Orders in which models are trained if no deletion is likelier than another: each begins with another slice."""
    return [tuple((start + step) % n_slices for step in range(n_slices)) for start in range(n_orders)]


def served(orders: Sequence[Sequence[int]], deleted: Collection[int]) -> Sequence[int]:
    """The longest beginning of one of the orders that holds no deleted slice."""
    beginnings = [
        order[: next((at for at, number in enumerate(order) if number in deleted), len(order))] for order in orders
    ]
    return max(beginnings, key=len)


def expected_deletions(n_shards: int, n_slices: int, n_orders: int) -> float:
    """Mean number of deletions, each of a slice at random, after which nothing is left to serve.

    ``m L H(m B)`` for ``m`` shards of ``L`` slices in ``B`` orders, with the harmonic number ``H``: the first slice of
    every order of every shard must be met. One order is SISA (arXiv 1912.03817).

    Raises:
        AuditError: there are more orders than slices, so that two begin with the same.
    """
    if not 1 <= n_orders <= n_slices:
        raise AuditError(f"{n_slices} slices have 1 to {n_slices} orders that begin differently, not {n_orders}.")
    return n_shards * n_slices * sum(1 / left for left in range(1, n_shards * n_orders + 1))


def _check(slices: Sequence[Sequence[Hashable]], n_layers: int) -> None:
    if not slices or not all(slices):
        raise AuditError("a slice is empty.", hint="Give every slice at least one text.")
    if len(slices) > n_layers:
        raise AuditError(f"{len(slices)} slices need as many layers, but there are {n_layers}.")
    counts = Counter(text for each in slices for text in set(each))
    twice = next((text for text, count in counts.items() if count > 1), None)
    if twice is not None:
        raise AuditError(f"{twice!r} is in two slices, so deleting one would leave it.")


def _weights(network: nn.Module, layers: Collection[str]) -> dict[str, nn.Parameter]:
    below = tuple(f"{layer}." for layer in layers)
    return {name: parameter for name, parameter in network.named_parameters() if name.startswith(below)}
