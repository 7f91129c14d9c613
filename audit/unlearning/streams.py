"""The residual stream at the tokens of packed examples, for the methods that steer it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.models.hooks import by_layer, on_outputs
from audit.models.loading import RunningModel
from audit.models.packing import Pack, answer_logprobs


def stream_after(model: RunningModel, layer: int, row: Pack) -> Float[Tensor, "n d_model"]:
    """The residual stream after ``layer`` at every token of ``row``, float32, on the CPU."""
    streams, _ = streams_after(model, [layer], row)
    return streams[layer]


def streams_after(
    model: RunningModel, layers: Collection[int], row: Pack
) -> tuple[dict[int, Float[Tensor, "n d_model"]], Float[Tensor, "m d_vocab"]]:
    """The same after several layers, and ``packing.answer_logprobs``, from one pass."""
    streams: dict[int, Tensor] = {}

    def take(layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        streams[layer] = stream.reshape(-1, stream.shape[-1]).float().cpu()

    with on_outputs(model.model, by_layer(model.architecture.block_module, layers, take), once=True):
        logprobs = answer_logprobs(model, row)
    return streams, logprobs


def places(paths: Iterable[Int[Tensor, " _"]]) -> Int[Tensor, " n"]:
    """The places of the row that lie on one of the paths."""
    found: Tensor = torch.unique(torch.cat([torch.zeros(0, dtype=torch.long), *paths]))
    return found


def without(places: Int[Tensor, " n"], others: Int[Tensor, " m"]) -> Int[Tensor, " k"]:
    """The places that are not among the others."""
    return places[~torch.isin(places, others)]
