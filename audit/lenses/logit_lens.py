"""The logit lens: the residual stream after any block, read as if the model ended there (nostalgebraist, 2020)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.models.loading import RunningModel


@dataclass(frozen=True, eq=False)
class Readout:
    """A model's final norm and head at some tokens, copied from it, so that another model can be read through them.

    Attributes:
        rows: the head's rows ``[n_tokens, d_model]``.
        bias: of the head at these tokens, or 0.
        cap: soft cap of the logits, if the model has one.
    """

    norm: nn.Module
    rows: Float[Tensor, "n_tokens d_model"]
    bias: Tensor | float
    cap: float | None

    def read(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch n_tokens"]:
        """Logits of the chosen tokens, float32, on the CPU."""
        with torch.inference_mode():
            logits = self.norm(residual.to(self.rows.device, self.rows.dtype)) @ self.rows.T + self.bias
            return (self.cap * torch.tanh(logits / self.cap) if self.cap else logits).float().cpu()


def readout(model: RunningModel, token_ids: torch.Tensor) -> Readout:
    """The model's final norm and head at ``token_ids`` ``[n_tokens]``.

    After the last block these give the model's own logits. In earlier layers they say what the stream holds only as far
    as it is written in the final layer's basis already.
    """
    norm = model.model.get_submodule(model.architecture.final_norm_module)
    head = model.model.get_submodule(model.architecture.head_module)
    bias = 0.0 if getattr(head, "bias", None) is None else head.bias[token_ids].detach().clone()
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    return Readout(deepcopy(norm), head.weight[token_ids].detach().clone(), bias, cap)


def all_logits(model: RunningModel, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """The same for all tokens, through the model's own modules without a copy; float32, on the CPU."""
    norm = model.model.get_submodule(model.architecture.final_norm_module)
    head = model.model.get_submodule(model.architecture.head_module)
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    with torch.inference_mode():
        logits: Tensor = head(norm(residual.to(model.device, next(head.parameters()).dtype)))
        return (cap * torch.tanh(logits / cap) if cap else logits).float().cpu()
