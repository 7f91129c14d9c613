"""One layer's FFN in one orientation, however the family stores it: row ``j`` is neuron ``j`` in every matrix.

``FFN(x) = sum_j m_j(x) W_out[j]``: ``W_out[j]`` is the value vector of neuron ``j``, ``m_j`` its coefficient
(Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories"; Geva et al. 2022 for value vectors).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.checkpoint import Checkpoint
from audit.errors import ModelError
from audit.models.loading import RunningModel

Matrix = Float[Tensor, "d_mlp d_model"]


@dataclass(frozen=True)
class Ffn:
    """The matrices of one layer in float32; ``W_gate`` is ``None`` in an ungated FFN."""

    layer: int
    W_in: Matrix
    W_gate: Matrix | None
    W_out: Matrix


def read_ffn(checkpoint: Checkpoint, architecture: Architecture, layer: int) -> Ffn:
    """All matrices of ``layer``.

    Raises:
        IndexError: the model has no such layer; the message states the range.
    """
    return Ffn(
        layer=layer,
        W_in=_neurons_first(checkpoint, architecture, "W_in", layer),
        W_gate=_neurons_first(checkpoint, architecture, "W_gate", layer) if architecture.gated else None,
        W_out=_neurons_first(checkpoint, architecture, "W_out", layer),
    )


def value_vectors(checkpoint: Checkpoint, architecture: Architecture, layer: int) -> Matrix:
    """``W_out`` of ``layer`` in float32, contiguous; row ``j`` is the value vector of neuron ``j``."""
    return _neurons_first(checkpoint, architecture, "W_out", layer)


def value_rows(model: RunningModel, layer: int) -> Matrix:
    """The value vectors of ``layer`` as a view, however the family stores them: writing into it changes the model.

    Raises:
        ModelError: a layer of experts; in memory their value vectors cannot be viewed as one matrix.
    """
    if model.architecture.n_experts:
        raise ModelError(
            f"single value vectors of {model.architecture.name} cannot be edited: its FFN is made of experts.",
            hint="Choose a method that trains the whole model, or audit the model as it is.",
        )
    stored: Tensor = model.model.get_parameter(model.architecture.names("W_out")[layer]).detach()
    return stored if model.architecture.neuron_axis["W_out"] == 0 else stored.T


def unembedding(checkpoint: Checkpoint, architecture: Architecture) -> Float[Tensor, "d_vocab d_model"]:
    """The head ``W_U`` in float32: the checkpoint's own, or its embedding where it stores no head.

    ``architecture`` may be that of the other model of a pair, so the stored tensors decide, not ``architecture.tied``.
    """
    head = architecture.head_name
    (embedding,) = architecture.names("embedding")
    return checkpoint.tensor(head if head in checkpoint.tensors else embedding).to(torch.float32)


def _neurons_first(checkpoint: Checkpoint, architecture: Architecture, role: str, layer: int) -> Matrix:
    """The matrix of ``role`` in ``layer``, in float32, contiguous."""
    if not 0 <= layer < architecture.n_layers:
        raise IndexError(f"layer {layer}: {architecture.name} here has layers 0 to {architecture.n_layers - 1}")
    parts = []
    for piece in architecture.matrix(role, layer):
        part = checkpoint.tensor(piece.name).narrow(piece.axis, piece.start, piece.count)
        parts.append(part if piece.axis == 0 else part.T)
    matrix = parts[0] if len(parts) == 1 else torch.cat(parts)
    return matrix.to(torch.float32).contiguous()
