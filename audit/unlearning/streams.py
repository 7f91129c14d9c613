"""The residual stream at the tokens of packed examples, for the methods that steer it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.errors import AuditError
from audit.models.hooks import by_layer, on_outputs
from audit.models.loading import RunningModel
from audit.models.packing import Pack, Tokens, answer_logprobs
from audit.progress import Progress
from audit.unlearning.training import rows_of


def layer_at(model: RunningModel, layer: int, depth: float) -> int:
    """``layer``; for -1 the one at ``depth``, a share of the model's depth.

    Raises:
        AuditError: there is no such layer.
    """
    n_layers = model.architecture.n_layers
    if not -1 <= layer < n_layers:
        raise AuditError(f"there is no layer {layer}.", hint=f"The model has layers 0 to {n_layers - 1}.")
    return int(n_layers * depth) if layer == -1 else layer


class Streams:
    """A ``Forward`` that keeps the residual stream of the row that was run last, for a loss that reads it.

    Attributes:
        row: the examples that were run last.
        after: layer -> the stream after it at every token of ``row`` ``[n, d_model]``.
    """

    row: Pack
    after: dict[int, Tensor]

    def __init__(self, model: RunningModel, layers: Collection[int]) -> None:
        self.model, self.layers = model, layers

    def forward(self, row: Pack) -> Float[Tensor, "m d_vocab"]:
        """Run ``row`` and keep its streams; see ``packing.answer_logprobs``."""
        self.row = row
        self.after, logprobs = streams_after(self.model, self.layers, row)
        return logprobs


def streams_of(
    model: RunningModel, layer: int, examples: Sequence[Tokens], size: int, progress: Progress
) -> list[Float[Tensor, "_ d_model"]]:
    """The stream after ``layer`` at the input tokens of each example, without gradients, in rows of ``size``."""
    found: list[Tensor] = []
    with torch.no_grad():
        for row in rows_of(examples, size, progress):
            stream = stream_after(model, layer, row)
            found += [stream[path] for path in row.paths]
    return found


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
