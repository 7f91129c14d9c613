"""Magnitude pruning of a model's matrices, as a treatment and as the control of methods that prune."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from audit.errors import AuditError


def require_sparsity(share: float) -> None:
    """Raises AuditError for a share of zeros that leaves nothing, or everything, as it is."""
    if not 0 < share < 1:
        raise AuditError(f"sparsity must be between 0 and 1, but is {share}.")


def smallest(parameters: Mapping[str, nn.Parameter], share: float) -> dict[str, Bool[Tensor, "*shape"]]:
    """Name -> which of its entries are among the ``share`` with the smallest magnitude over all parameters together."""
    magnitudes = torch.cat([parameter.detach().abs().flatten().float() for parameter in parameters.values()])
    n_pruned = round(share * len(magnitudes))
    chosen = torch.zeros(len(magnitudes), dtype=torch.bool, device=magnitudes.device)
    if n_pruned:
        chosen[magnitudes.topk(n_pruned, largest=False, sorted=False).indices] = True
    parts = torch.split(chosen, [parameter.numel() for parameter in parameters.values()])
    return {name: part.view(parameter.shape) for (name, parameter), part in zip(parameters.items(), parts, strict=True)}


@torch.no_grad()
def set_to_zero(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Bool[Tensor, "*shape"]]) -> None:
    """Set the entries of ``masks`` to zero."""
    for name, mask in masks.items():
        parameters[name].masked_fill_(mask, 0.0)


def zero_shares(parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Name -> share of its entries that are exactly zero."""
    return {name: (parameter == 0).float().mean().item() for name, parameter in parameters.items()}
