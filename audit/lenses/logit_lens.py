"""The logit lens: the residual stream after any block, read as if the model ended there (nostalgebraist, 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from audit.models.loading import RunningModel

Lens = Callable[[torch.Tensor], torch.Tensor]
"""Residual streams ``[..., d_model]`` -> logits of the chosen tokens ``[..., n_tokens]`` float32, on the CPU."""


def logit_lens(model: RunningModel, token_ids: torch.Tensor) -> Lens:
    """The model's final norm and head at ``token_ids`` ``[n_tokens]``, with its bias and soft cap if it has them.

    After the last block these are the model's own logits. In earlier layers they say what the stream holds only as far
    as it is written in the final layer's basis already.
    """
    norm = model.model.get_submodule(model.architecture.final_norm_module)
    head = model.model.get_submodule(model.architecture.head_module)
    rows = head.weight[token_ids]
    bias = 0 if getattr(head, "bias", None) is None else head.bias[token_ids]
    cap = getattr(model.model.config, "final_logit_softcapping", None)

    def read(residual: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = norm(residual.to(rows.device, rows.dtype)) @ rows.T + bias
            return (cap * torch.tanh(logits / cap) if cap else logits).float().cpu()

    return read
