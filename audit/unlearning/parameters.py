"""Which parameters of a model a method changes."""

from __future__ import annotations

from torch import nn

from audit.models.loading import RunningModel


def block_matrices(model: RunningModel, n_layers: int | None = None) -> dict[str, nn.Parameter]:
    """Name -> matrix of the attention and the FFN of the first ``n_layers`` blocks, by default all; no norm or bias."""
    return {name: parameter for name, parameter in block_parameters(model, n_layers).items() if parameter.ndim > 1}


def block_parameters(model: RunningModel, n_layers: int | None = None) -> dict[str, nn.Parameter]:
    """Name -> parameter of the first ``n_layers`` blocks, by default all."""
    architecture = model.architecture
    layers = range(architecture.n_layers if n_layers is None else n_layers)
    blocks = tuple(f"{architecture.block_module.format(layer=layer)}." for layer in layers)
    return {name: parameter for name, parameter in model.model.named_parameters() if name.startswith(blocks)}
