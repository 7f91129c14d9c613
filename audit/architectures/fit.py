"""How well a file's tensor names and shapes fit a family, and what exactly does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch

from audit.architectures.family import Family, Template, numbers, split_layer
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from audit.checkpoint import TensorInfo

SHOWN = 5
"""Names listed in a message before the rest is counted."""


@dataclass(frozen=True)
class Fit:
    """A family laid over a file's names: what fills which template, what is missing and what is left over."""

    family: Family
    n_layers: int
    n_experts: int
    matched: Mapping[str, tuple[Template, int | None]]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.missing and not self.extra

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Left-over tensors that mark an unsupported variant of the family, each with the variant."""
        marks = self.family.refused
        found = ((name, marks.get(name) or marks.get(split_layer(name)[0])) for name in self.extra)
        return tuple((name, variant) for name, variant in found if variant)

    @property
    def is_another_family(self) -> bool:
        """Whether a kind of tensor is absent from, or added to, every one of several layers.

        Damage and tampering hit single tensors; a difference repeated in all layers is another design.
        """
        kinds = Counter(split_layer(name)[0] for name in (*self.missing, *self.extra))
        return self.n_layers > 1 and max(kinds.values(), default=0) >= self.n_layers

    def problems(self) -> str:
        """What is missing, misnamed and left over, the first few by name."""
        unclaimed, absent, parts = list(self.extra), [], []
        for name in self.missing:
            near = get_close_matches(name, unclaimed, n=1, cutoff=0.9)
            if near:
                unclaimed.remove(near[0])
                parts.append(f"{near[0]} should perhaps be {name}")
            else:
                absent.append(name)
        misnamed = [listed(parts)] if parts else []
        missing = [f"missing: {listed(absent)}"] if absent else []
        extra = [f"not part of such a model: {listed(unclaimed)}"] if unclaimed else []
        return "; ".join(misnamed + missing + extra)


def fit_names(family: Family, tensors: Mapping[str, TensorInfo]) -> Fit | None:
    """Lay ``family`` over the names; ``None`` if not one of them belongs to it."""
    names = [name for name in tensors if not family.ignores(name)]
    matched = {name: found for name in names if (found := family.match(name))}
    if not matched:
        return None
    n_layers, n_experts = numbers(matched)
    for kind, count in (("layer", n_layers), ("expert", n_experts)):
        if count > len(names):  # before a list of that length is made
            raise CheckpointError(f"a tensor of {kind} {count - 1:,} in a file of {len(names)} tensors.")
    groups = {template.group for template, _ in matched.values()} | {None}
    groups |= {choices[0] for choices in family.one_of if groups.isdisjoint(choices)}
    missing = tuple(
        name
        for template in family.templates
        if template.group in groups and template.role != "head"
        for name in _all_names(template, n_layers, n_experts)
        if name not in matched
    )
    return Fit(family, n_layers, n_experts, matched, missing, tuple(name for name in names if name not in matched))


def _all_names(template: Template, n_layers: int, n_experts: int) -> Iterator[str]:
    """Every name that the template stands for in a model of this size."""
    for layer in range(n_layers if template.layered else 1):
        for expert in range(max(n_experts, 1) if template.of_expert else 1):
            yield template.name(layer, expert)


def fit_shapes(fit: Fit, tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """The size of each dimension symbol, the same in every tensor that names it.

    Raises:
        CheckpointError: a tensor of another shape, or one that does not hold floating-point numbers.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, (template, _) in fit.matched.items():
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise CheckpointError(
                f"{name} is stored as {str(dtype).removeprefix('torch.')}: quantised or packed weights.",
                hint="Dequantise the model and save it in a floating-point format.",
            )
        if len(shape) != len(template.shape):
            raise _misshapen(name, shape, template.shape, sizes)
        for size, term in zip(shape, template.shape, strict=True):
            factor, symbol = _term(term)
            expected, _ = sizes.setdefault(symbol, (size // factor, name))
            if size != factor * expected or size == 0:
                raise _misshapen(name, shape, template.shape, sizes)
    found = {symbol: size for symbol, (size, _) in sizes.items()} | {"n_layers": fit.n_layers}
    if "d_expert" in found:
        found |= {"n_experts": fit.n_experts, "d_mlp": fit.n_experts * found["d_expert"]}
    return found


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _term(term: str) -> tuple[int, str]:
    """``"3*d_model"`` -> ``(3, "d_model")``."""
    factor, _, symbol = term.rpartition("*")
    return int(factor or 1), symbol


def _misshapen(
    name: str, shape: tuple[int, ...], expected: tuple[str, ...], sizes: Mapping[str, tuple[int, str]]
) -> CheckpointError:
    known = "; ".join(
        f"{symbol} is {sizes[symbol][0]} in {sizes[symbol][1]}"
        for symbol in dict.fromkeys(_term(term)[1] for term in expected)
        if symbol in sizes and sizes[symbol][1] != name
    )
    message = f"{name} is {list(shape)}, expected [{', '.join(expected)}]"
    return CheckpointError(f"{message}, where {known}." if known else f"{message}.")
