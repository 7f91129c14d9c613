"""Parameters of the running model that published files store under another name, or in parts.

The names of published files are the canonical ones, in reports and in saved edits. A state dict that was saved with the
running model's names is given the canonical ones too, so that both kinds of file compare tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from audit.architectures.family import EXPERT, LAYER, Family, count_layers_and_experts, families, split_layer
from audit.checkpoint.weight_file import TensorInfo, WeightFile


@dataclass(frozen=True)
class TensorPart:
    """A stored tensor, or one of its ``n_parts`` equal parts along axis 0.

    Attributes:
        expert: in a tensor of stacked experts, the expert whose slice is divided.
        part: which of the parts.
    """

    file: WeightFile
    stored_name: str
    expert: int | None = None
    part: int = 0
    n_parts: int = 1

    @property
    def is_whole(self) -> bool:
        return self.expert is None and self.n_parts == 1

    def info(self, name: str) -> TensorInfo:
        """The header's entry, under the canonical ``name`` and with the shape of this part."""
        stored = self.file.tensors[self.stored_name]
        if self.is_whole:
            return replace(stored, name=name)
        shape = stored.shape if self.expert is None else stored.shape[1:]
        return replace(stored, name=name, shape=(shape[0] // self.n_parts, *shape[1:]))

    def tensor(self) -> torch.Tensor:
        if self.is_whole:
            return self.file.tensor(self.stored_name)
        if self.expert is None:
            whole = self.file.tensor(self.stored_name)
        else:
            (whole,) = self.file.rows(self.stored_name, self.expert, self.expert + 1)
        return whole.chunk(self.n_parts)[self.part].clone()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.file.rows(self.stored_name, start, stop) if self.is_whole else self.tensor()[start:stop]


def canonical_parts(parts: Mapping[str, TensorPart]) -> dict[str, TensorPart]:
    """``parts`` by canonical name; tensors under the running model's names are renamed or divided."""
    result = dict(parts)
    for family in families():
        if family.by_role["embedding"].pattern in parts:
            for name, part in parts.items():
                pattern, layer = split_layer(name)
                stored_names = [
                    stored.replace(LAYER, str(layer)) for stored in family.runtime_parameters.get(pattern, ())
                ]
                divided = _divide(part, stored_names)
                if divided and result.keys().isdisjoint(divided):
                    del result[name]
                    result |= divided
    return result


def _divide(tensor: TensorPart, names: Sequence[str]) -> dict[str, TensorPart]:
    """The parts of a stored tensor under their canonical names; empty if its shape is not divisible into them."""
    shape = tensor.file.tensors[tensor.stored_name].shape
    stacked = any(EXPERT in name for name in names)
    if len(shape) <= stacked or shape[stacked] % max(len(names), 1):
        return {}
    return {
        name.replace(EXPERT, str(expert)): replace(
            tensor, expert=expert if stacked else None, part=number, n_parts=len(names)
        )
        for expert in range(shape[0] if stacked else 1)
        for number, name in enumerate(names)
    }


@dataclass(frozen=True)
class RuntimeParameter:
    """One parameter of the running model that consists of stored tensors.

    Attributes:
        experts: for each expert, the tensors of equal shape that are concatenated along axis 0.
        stacked: whether the experts are stacked along a new first axis; otherwise ``experts`` has one entry.
    """

    experts: tuple[tuple[str, ...], ...]
    stacked: bool

    def join(self, fetch: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """The parameter, from the stored tensors that ``fetch`` returns by name."""
        joined = [torch.cat([fetch(name) for name in names]) for names in self.experts]
        return torch.stack(joined) if self.stacked else joined[0]

    def split(self, parameter: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The names of the stored tensors, each with its part of ``parameter`` as a view."""
        for names, value in zip(self.experts, parameter if self.stacked else [parameter], strict=True):
            yield from zip(names, value.chunk(len(names)), strict=True)


def runtime_parameters(names: Collection[str]) -> dict[str, RuntimeParameter]:
    """Parameter name -> its stored tensors, for the parameters that the file does not store under their own name."""
    for family in families():
        marks = {family.by_role["embedding"].pattern, family.by_role["W_out"].name(0)}
        if family.runtime_parameters and marks <= set(names):
            return dict(_of_family(family, names))
    return {}


def _of_family(family: Family, names: Collection[str]) -> Iterator[tuple[str, RuntimeParameter]]:
    n_layers, n_experts = count_layers_and_experts(names)
    for parameter, patterns in family.runtime_parameters.items():
        stacked = EXPERT in patterns[0]
        for layer in range(n_layers) if LAYER in parameter else [0]:
            parts = [pattern.replace(LAYER, str(layer)) for pattern in patterns]
            experts = tuple(
                tuple(part.replace(EXPERT, str(expert)) for part in parts)
                for expert in (range(n_experts) if stacked else [0])
            )
            if all(name in names for name in experts[0]):
                yield parameter.replace(LAYER, str(layer)), RuntimeParameter(experts, stacked)


def under_stored_names(
    state: Mapping[str, torch.Tensor], parameters: Mapping[str, RuntimeParameter]
) -> dict[str, torch.Tensor]:
    """A running model's state dict under the names of stored tensors, as views."""
    tensors = {name: tensor for name, tensor in state.items() if name not in parameters}
    for name, parameter in parameters.items():
        if name in state:
            tensors |= dict(parameter.split(state[name]))
    return tensors
