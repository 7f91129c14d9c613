"""How a file's tensor names and shapes fit a family, and which tensors do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from audit.architectures.family import Family, Template, count_layers_and_experts, split_layer
from audit.architectures.stored_tensors import TensorLayout
from audit.errors import CheckpointError, listed

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Fit:
    """The names of a file matched with the templates of a family.

    Attributes:
        matched: tensor name -> its template, and its layer where the template has one.
        missing: names that a complete model of this size would have and the file does not.
        extra: names in the file that belong to no template.
    """

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
    def unsupported(self) -> tuple[tuple[str, str], ...]:
        """Extra tensors that mark an unsupported variant of the family, each with the name of the variant."""
        marks = self.family.unsupported
        variants = ((name, marks.get(name) or marks.get(split_layer(name)[0])) for name in self.extra)
        return tuple((name, variant) for name, variant in variants if variant)

    @property
    def is_another_family(self) -> bool:
        """Whether a kind of tensor is missing or extra in every one of several layers.

        Damage and tampering affect single tensors; a difference repeated in all layers is another architecture.
        """
        kinds = Counter(split_layer(name)[0] for name in (*self.missing, *self.extra))
        return self.n_layers > 1 and max(kinds.values(), default=0) >= self.n_layers

    def problems(self) -> str:
        """The missing, misnamed and unexpected tensors, the first few by name."""
        unexpected, missing_names, misnamed = list(self.extra), [], []
        for name in self.missing:
            similar = get_close_matches(name, unexpected, n=1, cutoff=0.9)
            if similar:
                unexpected.remove(similar[0])
                misnamed.append(f"{similar[0]} should perhaps be {name}")
            else:
                missing_names.append(name)
        parts = [listed(misnamed)] if misnamed else []
        parts += [f"missing: {listed(missing_names)}"] if missing_names else []
        parts += [f"not part of such a model: {listed(unexpected)}"] if unexpected else []
        return "; ".join(parts)


def fit_names(family: Family, tensors: Collection[str]) -> Fit | None:
    """Match the names with the templates of ``family``; ``None`` if no name matches.

    Raises:
        CheckpointError: a name states a layer or expert number beyond the number of tensors in the file.
    """
    names = [name for name in tensors if not family.ignores(name)]
    matched = {name: match for name in names if (match := family.match(name))}
    if not matched:
        return None
    n_layers, n_experts = count_layers_and_experts(matched)
    for kind, count in (("layer", n_layers), ("expert", n_experts)):
        if count > len(names):  # checked before ``_all_names`` enumerates that many
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
    """The names of all tensors of this kind in a model of this size."""
    for layer in range(n_layers if template.layered else 1):
        for expert in range(max(n_experts, 1) if template.of_expert else 1):
            yield template.name(layer, expert)


def fit_shapes(fit: Fit, tensors: Mapping[str, TensorLayout]) -> dict[str, int]:
    """Dimension symbol -> size, which is the same in every tensor that uses the symbol.

    Raises:
        CheckpointError: a tensor of another shape, or one whose numbers are not floating-point.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, (template, _) in fit.matched.items():
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if dtype not in FLOATING:
            raise CheckpointError(
                f"{name} is stored as {str(dtype).removeprefix('torch.')}: quantised or packed weights.",
                hint="Dequantise the model and save it in a floating-point format.",
            )
        if len(shape) != len(template.shape):
            raise _shape_error(name, shape, template.shape, sizes)
        for size, term in zip(shape, template.shape, strict=True):
            factor, symbol = _parse_term(term)
            expected, _ = sizes.setdefault(symbol, (size // factor, name))
            if size != factor * expected or size == 0:
                raise _shape_error(name, shape, template.shape, sizes)
    result = {symbol: size for symbol, (size, _) in sizes.items()} | {"n_layers": fit.n_layers}
    if "d_expert" in result:
        result |= {"n_experts": fit.n_experts, "d_mlp": fit.n_experts * result["d_expert"]}
    return result


def _parse_term(term: str) -> tuple[int, str]:
    """``"3*d_model"`` -> ``(3, "d_model")``."""
    factor, _, symbol = term.rpartition("*")
    return int(factor or 1), symbol


def _shape_error(
    name: str, shape: tuple[int, ...], expected: tuple[str, ...], sizes: Mapping[str, tuple[int, str]]
) -> CheckpointError:
    known = "; ".join(
        f"{symbol} is {sizes[symbol][0]} in {sizes[symbol][1]}"
        for symbol in dict.fromkeys(_parse_term(term)[1] for term in expected)
        if symbol in sizes and sizes[symbol][1] != name
    )
    message = f"{name} is {list(shape)}, expected [{', '.join(expected)}]"
    return CheckpointError(f"{message}, where {known}." if known else f"{message}.")
