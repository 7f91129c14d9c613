"""Parameters of the running model that a file stores under another name, or in parts.

The file's names are the canonical ones, in reports as in saved edits; memory's are used to fill a model and to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch

from audit.architectures.family import EXPERT, LAYER, Family, families, numbers


@dataclass(frozen=True)
class Joined:
    """One parameter, made of tensors of the file.

    Attributes:
        experts: for each expert, the tensors that follow one another along axis 0 and have equal shapes.
        stacked: whether the experts are stacked along a new first axis; otherwise there is one, and it is no expert.
    """

    experts: tuple[tuple[str, ...], ...]
    stacked: bool

    def join(self, fetch: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """The parameter, from the file's tensors."""
        joined = [torch.cat([fetch(name) for name in parts]) for parts in self.experts]
        return torch.stack(joined) if self.stacked else joined[0]

    def split(self, parameter: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The file's names, each with its part of ``parameter`` as a view."""
        for parts, value in zip(self.experts, parameter if self.stacked else [parameter], strict=True):
            yield from zip(parts, value.chunk(len(parts)), strict=True)


def joined_parameters(names: Collection[str]) -> dict[str, Joined]:
    """Parameter name -> what it is made of, for those of the running model that the file does not hold as they are."""
    for family in families():
        marks = {family.by_role["embedding"].pattern, family.by_role["W_out"].name(0)}
        if family.memory and marks <= set(names):
            return dict(_joined(family, names))
    return {}


def _joined(family: Family, names: Collection[str]) -> Iterator[tuple[str, Joined]]:
    n_layers, n_experts = numbers(names)
    for parameter, patterns in family.memory.items():
        stacked = EXPERT in patterns[0]
        for layer in range(n_layers) if LAYER in parameter else [0]:
            parts = [pattern.replace(LAYER, str(layer)) for pattern in patterns]
            experts = tuple(
                tuple(part.replace(EXPERT, str(expert)) for part in parts)
                for expert in (range(n_experts) if stacked else [0])
            )
            if all(name in names for name in experts[0]):
                yield parameter.replace(LAYER, str(layer)), Joined(experts, stacked)


def in_memory(state: Mapping[str, torch.Tensor], joined: Mapping[str, Joined]) -> dict[str, torch.Tensor]:
    """A running model's tensors under the file's names, as views."""
    tensors = {name: tensor for name, tensor in state.items() if name not in joined}
    for name, made in joined.items():
        if name in state:
            tensors |= dict(made.split(state[name]))
    return tensors
