"""What a training run changes: all weights, low-rank adapters (LoRA, arXiv 2106.09685), or the input embedding."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Literal

import torch
from torch import nn

from audit.models.loading import RunningModel
from audit.unlearning.fine_tuning import preserved

Part = Literal["all weights", "low rank", "embedding"]
ALL: Final[Part] = "all weights"
LOW_RANK: Final[Part] = "low rank"
EMBEDDING: Final[Part] = "embedding"

RANK: Final = 8
FASTER: Final[Mapping[Part, float]] = {ALL: 1.0, LOW_RANK: 10.0, EMBEDDING: 10.0}
"""Learning rate of each part relative to that of all weights: few parameters have to move further."""
ADAPTER: Final = "default"


@contextmanager
def trained_part(model: RunningModel, part: Part, seed: int = 0) -> Iterator[Sequence[nn.Parameter]]:
    """The parameters of ``part``, which may be trained inside the block; afterwards the model is as it was.

    All weights need a copy of the model, the embedding a copy of itself, adapters none.

    Args:
        seed: of the adapters' initial values.
    """
    if part == LOW_RANK:
        with adapters(model, RANK, seed) as parameters:
            yield parameters
        return
    chosen = list(model.model.parameters())
    if part == EMBEDDING:
        chosen = [model.model.get_input_embeddings().weight]
    with preserved(model, chosen):
        yield chosen


def adapters(
    model: RunningModel, rank: int, seed: int = 0, merge: bool = False
) -> AbstractContextManager[list[nn.Parameter]]:
    """``adapters_below`` all blocks of ``model``."""
    return adapters_below(model.model, block_names(model), rank, seed, merge)


@contextmanager
def adapters_below(
    network: nn.Module, modules: Collection[str], rank: int, seed: int = 0, merge: bool = False
) -> Iterator[list[nn.Parameter]]:
    """New adapters of every linear layer below these modules, which change nothing until they are trained.

    With a scale of 2, as ``lora_alpha`` is twice the rank. Afterwards the network is as it was.

    Args:
        seed: of their initial values.
        merge: add them to the weights at the end of the block instead, unless it raises.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    linear = _linear_below(network, modules)
    transposed = any(_is_transposed(module) for module in linear.values())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(linear), fan_in_fan_out=transposed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = LoraModel(network, config, ADAPTER)
    leave = tuner.unload
    try:
        yield [parameter for name, parameter in network.named_parameters() if f".{ADAPTER}." in name]
        if merge:
            leave = tuner.merge_and_unload
    finally:
        leave()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(flags[name])


def adapted_modules(model: RunningModel) -> list[str]:
    """The layers of a block that get an adapter, by their names in it."""
    names, blocks = linear_layers(model), [f"{name}." for name in block_names(model)]
    return sorted({name.removeprefix(block) for block in blocks for name in names if name.startswith(block)})


def linear_layers(model: RunningModel) -> dict[str, nn.Module]:
    """The linear layers of the blocks by name."""
    return _linear_below(model.model, block_names(model))


def block_names(model: RunningModel) -> list[str]:
    """Names of the model's blocks, the lowest first."""
    architecture = model.architecture
    return [architecture.block_module.format(layer=layer) for layer in range(architecture.n_layers)]


def _linear_below(network: nn.Module, modules: Collection[str]) -> dict[str, nn.Module]:
    begins = tuple(f"{name}." for name in modules)
    return {
        name: module
        for name, module in network.named_modules()
        if name.startswith(begins) and (isinstance(module, nn.Linear) or _is_transposed(module))
    }


def widths(module: nn.Module) -> tuple[int, int]:
    """Width of the input and of the output of one of the linear layers."""
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if _is_transposed(module) else (columns, rows)


def _is_transposed(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, whose weight is ``[in, out]``."""
    return type(module).__name__ == "Conv1D"
