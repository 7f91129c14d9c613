"""Parameters of the running model that published files store under another name, or in parts.

The names of published files are the canonical ones, in reports as in saved edits. A state dict that was written from
memory as it is gets them too, so that both kinds of file compare tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from audit.architectures.family import EXPERT, LAYER, Family, count_layers_and_experts, families, split_layer
from audit.checkpoint.source import TensorInfo, WeightFile


@dataclass(frozen=True)
class Place:
    """A stored tensor, or one of its ``parts`` along axis 0 (of one expert, where it stacks them)."""

    source: WeightFile
    stored: str
    expert: int | None = None
    part: int = 0
    parts: int = 1

    @property
    def is_whole(self) -> bool:
        return self.expert is None and self.parts == 1

    def info(self, name: str) -> TensorInfo:
        """What the header says of the tensor, under its canonical ``name``."""
        stored = self.source.tensors[self.stored]
        if self.is_whole:
            return replace(stored, name=name)
        shape = stored.shape if self.expert is None else stored.shape[1:]
        return replace(stored, name=name, shape=(shape[0] // self.parts, *shape[1:]))

    def tensor(self) -> torch.Tensor:
        if self.is_whole:
            return self.source.tensor(self.stored)
        if self.expert is None:
            whole = self.source.tensor(self.stored)
        else:
            (whole,) = self.source.rows(self.stored, self.expert, self.expert + 1)
        return whole.chunk(self.parts)[self.part].clone()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.source.rows(self.stored, start, stop) if self.is_whole else self.tensor()[start:stop]


def canonical_places(places: Mapping[str, Place]) -> dict[str, Place]:
    """The places of a state dict written from memory under the names of published files; others as they are."""
    found = dict(places)
    for family in families():
        if family.by_role["embedding"].pattern in places:
            for name, place in places.items():
                pattern, layer = split_layer(name)
                parts = [part.replace(LAYER, str(layer)) for part in family.memory.get(pattern, ())]
                taken = _taken_apart(place, parts)
                if taken and found.keys().isdisjoint(taken):
                    del found[name]
                    found |= taken
    return found


def _taken_apart(place: Place, parts: Sequence[str]) -> dict[str, Place]:
    """The canonical names in a stored tensor; none where its shape does not divide into them."""
    shape = place.source.tensors[place.stored].shape
    stacked = any(EXPERT in part for part in parts)
    if len(shape) <= stacked or shape[stacked] % max(len(parts), 1):
        return {}
    return {
        part.replace(EXPERT, str(expert)): replace(
            place, expert=expert if stacked else None, part=number, parts=len(parts)
        )
        for expert in range(shape[0] if stacked else 1)
        for number, part in enumerate(parts)
    }


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
    n_layers, n_experts = count_layers_and_experts(names)
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
