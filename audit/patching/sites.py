"""Where activations are read and put in: the output of the embedding, attention outputs and FFN coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from audit.architectures import Architecture
from audit.models.hooks import on_inputs, on_outputs
from audit.models.loading import RunningModel

Component = Literal["embedding", "attention", "coefficients"]
Activations = dict[str, Tensor]
"""Module -> its activation for one batch, as the module has it ``[n_rows, length, d]`` or ``[n_rows * length, d]``."""


@dataclass(frozen=True)
class Site:
    """One activation.

    Attributes:
        layer: ``None`` for the embedding.
        is_input: whether it is the first input of its module, and not the output.
    """

    component: Component
    layer: int | None
    is_input: bool = False


def sites_of(architecture: Architecture) -> dict[str, Site]:
    """Module -> its site, for all sites of a model; layers of experts have no single input of coefficients."""
    layers = range(architecture.n_layers)
    (embedding,) = architecture.names("embedding")
    sites = {_module_of(embedding): Site("embedding", None)}
    outputs = architecture.names("o")
    sites |= {_module_of(outputs[layer]): Site("attention", layer) for layer in layers}
    if not architecture.n_experts:
        module = architecture.out_module
        sites |= {module.format(layer=layer): Site("coefficients", layer, is_input=True) for layer in layers}
    return sites


def _module_of(weight: str) -> str:
    return weight.removesuffix(".weight")


@contextmanager
def recording(model: RunningModel, sites: Mapping[str, Site]) -> Iterator[Activations]:
    """Keep the activations at ``sites`` in the one pass that runs inside, on the CPU."""
    kept: Activations = {}

    def keep_input(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept[name] = args[0].cpu()

    def keep_output(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        kept[name] = output.cpu()

    inputs = {name: partial(keep_input, name) for name, site in sites.items() if site.is_input}
    outputs = {name: partial(keep_output, name) for name, site in sites.items() if not site.is_input}
    with on_inputs(model.model, inputs, once=True), on_outputs(model.model, outputs, once=True):
        yield kept


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which position of other rows is put in at each position of a batch; rows are aligned at their ends.

    Attributes:
        source: position in the other batch, for each position of the batch.
        usable: false where the other row has not begun yet, and in padding.
    """

    source: Int[Tensor, "n_rows length"]
    usable: Bool[Tensor, "n_rows length"]

    @classmethod
    def of(cls, lengths: Sequence[int], others: Sequence[int]) -> Alignment:
        """Of rows of these numbers of tokens."""
        positions = torch.arange(max(lengths)).expand(len(lengths), -1)
        own = torch.tensor(lengths)[:, None]
        source = positions + torch.tensor(others)[:, None] - own
        usable = (source >= 0) & (positions < own)
        return cls(source.clamp(0, max(others) - 1), usable)

    def put_in(self, new: Tensor, old: Tensor) -> Tensor:
        """``old`` with the positions of ``new`` that belong there."""
        size, width = len(self.source), old.shape[-1]
        rows = new.reshape(size, -1, width)
        index = self.source[..., None].expand(-1, -1, width).to(rows.device)
        wanted = self.usable[..., None].to(rows.device)
        return torch.where(wanted, rows.gather(1, index), old.reshape(size, -1, width)).reshape(old.shape)


def putting_in(
    model: RunningModel, activations: Activations, sites: Mapping[str, Site], alignment: Alignment | None = None
) -> ExitStack:
    """Run with the activations at ``sites`` replaced by those of ``activations``.

    Args:
        alignment: for activations of other rows; without it they are those of the same batch.
    """

    def replaced(name: str, old: Tensor) -> Tensor:
        new = activations[name].to(old.device, old.dtype)
        return new if alignment is None else alignment.put_in(new, old)

    def input_of(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (replaced(name, args[0]), *args[1:])

    def output_of(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return replaced(name, output)

    with ExitStack() as stack:
        inputs = {name: partial(input_of, name) for name, site in sites.items() if site.is_input}
        outputs = {name: partial(output_of, name) for name, site in sites.items() if not site.is_input}
        stack.enter_context(on_inputs(model.model, inputs, once=True))
        stack.enter_context(on_outputs(model.model, outputs, once=True))
        return stack.pop_all()
