"""Where guards put their hooks in a model: derived once from its architecture and saved with the guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audit.architectures import Architecture
from audit.errors import ModelError


@dataclass(frozen=True)
class Sites:
    """Module names by layer.

    Attributes:
        out: the module whose input is the key vector.
        pre: the module whose output holds the pre-activations, neuron ``j`` in column ``first + j``.
        first: that column.
        d_mlp: neurons of a layer.
    """

    out: tuple[str, ...]
    pre: tuple[str, ...]
    first: tuple[int, ...]
    d_mlp: int

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> Sites:
        """Raises ModelError for an FFN made of experts, whose neurons have no single module."""
        if architecture.n_experts:
            raise ModelError(
                f"{architecture.name} cannot be guarded: the neurons of its FFN are spread over experts.",
                hint="Guards are for models with a dense FFN.",
            )
        layers = range(architecture.n_layers)
        pieces = [architecture.matrix("W_gate" if architecture.gated else "W_in", layer)[0] for layer in layers]
        return cls(
            out=tuple(architecture.out_module.format(layer=layer) for layer in layers),
            pre=tuple(piece.name.rpartition(".")[0] for piece in pieces),
            first=tuple(piece.start for piece in pieces),
            d_mlp=architecture.d_mlp,
        )

    def contain(self, neurons: np.ndarray) -> bool:
        """Whether ``neurons`` are whole numbers (layer, neuron) ``[k, 2]`` that exist in such a model."""
        if neurons.dtype.kind not in "iu" or neurons.ndim != 2 or neurons.shape[1] != 2:
            return False
        return bool((neurons >= 0).all() and (neurons < (len(self.out), self.d_mlp)).all())


def generator_at(seed: int, *place: int) -> np.random.Generator:
    """Draws that depend on the seed and up to four numbers, such as a position and a layer, and on nothing else."""
    counter = np.array([*place, *[0] * (4 - len(place))], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def positions(kwargs: dict[str, Tensor | None], length: int, past: int) -> Tensor:
    """Position of every token in its own sequence ``[1 or batch, length]``, whatever is padded or cached."""
    given, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    if given is not None:
        return given
    if mask is not None and mask.dim() == 2:
        return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
    return torch.arange(past, past + length)[None]


def past_length(kwargs: Mapping[str, Any]) -> int:
    """Number of tokens whose keys and values are cached already."""
    cache = kwargs.get("past_key_values")
    return int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
