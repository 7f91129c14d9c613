"""A PEFT LoRA adapter, read as the model that it makes of its base: merged in float32, one tensor at a time.

A merged matrix is ``W + s B A`` with ``s = alpha / r`` (Hu et al. 2021, arXiv 2106.09685), or ``alpha / sqrt(r)`` for
rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732). For DoRA each output row is then scaled to its learned norm
(Liu et al. 2024, arXiv 2402.09353). Every tensor of the adapter must belong to a tensor of the base.

Why not ``peft``'s own ``merge_and_unload``? Measured with peft 0.21:

- it merges a running model, so it needs transformers' model class and the whole base in memory; here a checkpoint of a
  model that we cannot run is compared too, and one tensor is read at a time;
- it merges in the base's number format: an update below the rounding of a bfloat16 base changes no tensor at all;
- it loads what it can: an adapter without one ``lora_B`` is merged after a warning, and a tensor for a module that the
  base does not have is dropped without one.

Training uses peft's own adapters (``audit/unlearning/parts.py``). ``tests/checkpoint/formats/test_adapter.py`` merges
ten kinds of adapter with both and compares every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float32
from torch import Tensor

from audit.architectures.family import families
from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.formats import open_file
from audit.checkpoint.formats.adapter_config import ADAPTER_CONFIG, MERGE_HINT, AdapterSettings, read_settings
from audit.checkpoint.weight_file import Format, TensorInfo, WeightFile
from audit.errors import CheckpointError

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX: Final = "base_model.model."
PARTS: Final = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)"
)
LINEAR_FACTORS: Final = frozenset({"lora_A.weight", "lora_B.weight"})
EMBEDDING_FACTORS: Final = frozenset({"lora_embedding_A", "lora_embedding_B"})


@dataclass
class AdapterFile:
    """The base's tensors, with the adapter merged into those that it changes; the others keep the base's dtype.

    Attributes:
        modules: module of the base -> part of the adapter (``lora_A.weight``, ...) -> its tensor in ``file``.
        replaced: tensor of the base -> the tensor in ``file`` that replaces it.
    """

    file: WeightFile
    base: Checkpoint
    settings: AdapterSettings
    modules: Mapping[str, Mapping[str, str]]
    replaced: Mapping[str, str]
    format: Format = "adapter"
    tensors: Mapping[str, TensorInfo] = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        merged = dict(self.base.tensors)
        for module, parts in self.modules.items():
            for target in _changed_tensors(module, parts):
                info = merged[target]
                merged[target] = TensorInfo(target, info.shape, torch.float32, self.path.name)
        for target, stored in self.replaced.items():
            info = self.file.tensors[stored]
            merged[target] = TensorInfo(target, info.shape, info.dtype, self.path.name)
        self.tensors = merged
        self.notes = (
            f"a LoRA adapter of rank {self.settings.rank} on {len(self.modules)} matrices, merged in float32 into "
            f"{self.base.path}" + (f"; {len(self.replaced)} tensors replaced whole" if self.replaced else ""),
            *self.file.notes,
        )

    @property
    def path(self) -> Path:
        return self.file.path

    def tensor(self, name: str) -> torch.Tensor:
        if name in self.replaced:
            return self.file.tensor(self.replaced[name])
        tensor = self.base.tensor(name)
        module, _, kind = name.rpartition(".")
        parts = self.modules.get(module, {})
        if name not in _changed_tensors(module, parts):
            return tensor
        merged = tensor.to(torch.float32)
        if kind == "bias":
            return merged + self.settings.scaling(module) * self._part(parts["lora_B.bias"])
        return self._merge_weight(module, parts, merged)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[start:stop].clone()

    def _merge_weight(
        self, module: str, parts: Mapping[str, str], weight: Float32[Tensor, "rows columns"]
    ) -> Float32[Tensor, "rows columns"]:
        if parts.keys() >= EMBEDDING_FACTORS:
            product = (self._part(parts["lora_embedding_B"]) @ self._part(parts["lora_embedding_A"])).T
        else:
            product = self._part(parts["lora_B.weight"]) @ self._part(parts["lora_A.weight"])
            product = product.T if self.settings.transposed else product
        weight = weight + self.settings.scaling(module) * product
        if not self.settings.dora:
            return weight
        input_axis = 0 if self.settings.transposed else 1
        norms = weight.square().sum(dim=input_axis, keepdim=True).sqrt()
        return weight * (self._part(_magnitude(parts)).reshape(norms.shape) / norms)

    def _part(self, name: str) -> torch.Tensor:
        return self.file.tensor(name).to(torch.float32)


def open_adapter(folder: Path, base: Checkpoint) -> AdapterFile:
    """The adapter in ``folder`` over ``base``, with every shape checked.

    Raises:
        CheckpointError: another kind of adapter, a setting that is not supported, or tensors that do not fit the base.
    """
    settings = read_settings(folder / ADAPTER_CONFIG)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"no {WEIGHTS[0]} beside {ADAPTER_CONFIG}.", where=str(folder), hint="Download it.")
    file = open_file(weights)
    modules, replaced = _sort_tensors(file)
    for module, parts in modules.items():
        _check_module(module, parts, file, base, settings)
    unmatched = [name for name in replaced if name not in base.tensors]
    if unmatched:
        raise CheckpointError(
            f"{len(unmatched)} tensors of the adapter have no counterpart in the base: {', '.join(unmatched[:5])}.",
            where=str(weights),
            hint=_base_hint(base),
        )
    _check_tied_head(folder, base, [*replaced, *(f"{module}.weight" for module in modules)])
    return AdapterFile(file, base, settings, modules, replaced)


def _sort_tensors(file: WeightFile) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """``modules`` and ``replaced`` of an ``AdapterFile``."""
    modules: dict[str, dict[str, str]] = {}
    replaced = {}
    for stored in file.tensors:
        name = stored.removeprefix(PREFIX)
        if match := PARTS.fullmatch(name):
            modules.setdefault(match["module"], {})[match["part"]] = stored
        else:
            replaced[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = stored
    return modules, replaced


def _check_tied_head(folder: Path, base: Checkpoint, changed: Collection[str]) -> None:
    """Raises CheckpointError if the adapter changes an embedding that is also the head.

    PEFT applies the change to the embedding only; a merge into the one stored tensor would apply it to both.
    """
    for family in families():
        embedding, head = (family.by_role[role].pattern for role in ("embedding", "head"))
        if embedding in changed and embedding in base.tensors and head not in base.tensors:
            raise CheckpointError(
                f"changes {embedding}, which is also the head of {base.path}: the merge would change the head too.",
                where=str(folder),
                hint="Untie the base, merge, and save the result.",
            )


def _check_module(
    module: str, parts: Mapping[str, str], file: WeightFile, base: Checkpoint, settings: AdapterSettings
) -> None:
    """Raises CheckpointError unless both factors exist, have one rank, and their product has the base's shape."""
    where, target = str(file.path), f"{module}.weight"
    factors = next((pair for pair in (LINEAR_FACTORS, EMBEDDING_FACTORS) if pair <= parts.keys()), None)
    if factors is None:
        raise CheckpointError(f"{module} has {', '.join(sorted(parts))} and lacks the rest.", where=where)
    if settings.dora != (_magnitude(parts) != "") or (settings.dora and factors == EMBEDDING_FACTORS):
        raise CheckpointError(f"{module}: not a DoRA module that can be merged here.", where=where, hint=MERGE_HINT)
    for changed in _changed_tensors(module, parts):
        if changed not in base.tensors:
            raise CheckpointError(
                f"changes {changed}, which the base does not have.", where=where, hint=_base_hint(base)
            )
    first, second = (file.tensors[parts[name]].shape for name in sorted(factors))
    rank = settings.module_rank(module)
    if len(first) != 2 or len(second) != 2 or first[0] != rank or second[1] != rank:
        raise CheckpointError(
            f"{module}: factors {list(first)} and {list(second)} are not of rank {rank}.", where=where
        )
    transposed = settings.transposed or factors == EMBEDDING_FACTORS
    product = (first[1], second[0]) if transposed else (second[0], first[1])
    if product != base.tensors[target].shape:
        raise CheckpointError(
            f"{module}: the adapter changes {list(product)}, the base has {list(base.tensors[target].shape)}.",
            where=where,
            hint=_base_hint(base),
        )


def _changed_tensors(module: str, parts: Mapping[str, str]) -> tuple[str, ...]:
    """The base's tensors that the parts of one module change."""
    if not parts:
        return ()
    return (f"{module}.weight", f"{module}.bias") if "lora_B.bias" in parts else (f"{module}.weight",)


def _magnitude(parts: Mapping[str, str]) -> str:
    """The tensor of DoRA's magnitudes, an empty string if there is none."""
    return next((stored for part, stored in parts.items() if part.startswith("lora_magnitude_vector")), "")


def _base_hint(base: Checkpoint) -> str:
    return f"Check that {base.path} is the base that the adapter was trained on."
