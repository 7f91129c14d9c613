"""A PEFT LoRA adapter read as the model it makes of its base: merged in float32, one tensor at a time.

``W + s B A`` with ``s = alpha / r`` (``alpha / sqrt(r)`` for rank-stabilised LoRA; Hu et al. 2021, arXiv 2106.09685;
Kalajdzievski 2023, arXiv 2312.03732); for DoRA each output row is scaled to its learned norm (Liu et al. 2024, arXiv
2402.09353). Every tensor of the adapter must find its place in the base, and every setting that changes what the
adapter means is either understood or refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from audit.architectures.family import families
from audit.checkpoint.source import Format, TensorInfo, WeightFile, unique_keys
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from audit.checkpoint import Checkpoint

CONFIG: Final = "adapter_config.json"
CONFIG_LIMIT: Final = 10_000_000  # bytes
WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX: Final = "base_model.model."
KEEPS_BASE: Final = ("gaussian", "eva", "orthogonal")
"""Named initialisations under which the base stays as it is; the others store a residual in it."""
PARTS: Final = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)"
)
LORA: Final = frozenset({"lora_A.weight", "lora_B.weight"})
MERGE: Final = "Merge it into its base and save the result."
EMBEDDING: Final = frozenset({"lora_embedding_A", "lora_embedding_B"})


@dataclass(frozen=True)
class AdapterSettings:
    """What adapter_config.json says of the merge.

    Attributes:
        rank, alpha: for all modules but those that ``ranks`` and ``alphas`` name by a pattern.
        transposed: whether the base stores its matrices as ``[in, out]``, as GPT-2 does.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    dora: bool
    transposed: bool

    def scaling(self, module: str) -> float:
        """The factor of ``B A`` in ``module``."""
        rank, alpha = float(_of(self.ranks, module, self.rank)), float(_of(self.alphas, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


@dataclass
class AdapterFile:
    """The base's tensors with the adapter merged into those it names; the others keep the base's number format."""

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
            for target in _targets(module, parts):
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
        if name not in _targets(module, parts):
            return tensor
        merged = tensor.to(torch.float32)
        if kind == "bias":
            return merged + self.settings.scaling(module) * self._part(parts["lora_B.bias"])
        return self._merged(module, parts, merged)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[start:stop].clone()

    def _merged(self, module: str, parts: Mapping[str, str], weight: torch.Tensor) -> torch.Tensor:
        if parts.keys() >= EMBEDDING:
            change = (self._part(parts["lora_embedding_B"]) @ self._part(parts["lora_embedding_A"])).T
        else:
            change = self._part(parts["lora_B.weight"]) @ self._part(parts["lora_A.weight"])
            change = change.T if self.settings.transposed else change
        weight = weight + self.settings.scaling(module) * change
        if not self.settings.dora:
            return weight
        across = 0 if self.settings.transposed else 1
        norms = weight.square().sum(dim=across, keepdim=True).sqrt()
        return weight * (self._part(_magnitude(parts)).reshape(norms.shape) / norms)

    def _part(self, name: str) -> torch.Tensor:
        return self.file.tensor(name).to(torch.float32)


def open_adapter(folder: Path, base: Checkpoint) -> AdapterFile:
    """The adapter in ``folder`` over ``base``, every shape checked.

    Raises:
        CheckpointError: another kind of adapter, a setting we do not know how to merge, or tensors that do not fit.
    """
    from audit.checkpoint.folder import open_file  # which opens folders of adapters by way of this module

    settings = read_settings(folder / CONFIG)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"no {WEIGHTS[0]} beside {CONFIG}.", where=str(folder), hint="Download it.")
    file = open_file(weights)
    modules: dict[str, dict[str, str]] = {}
    replaced = {}
    for stored in file.tensors:
        name = stored.removeprefix(PREFIX)
        if found := PARTS.fullmatch(name):
            modules.setdefault(found["module"], {})[found["part"]] = stored
        else:
            replaced[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = stored
    for module, parts in modules.items():
        _check_module(module, parts, file, base, settings)
    strays = [name for name in replaced if name not in base.tensors]
    if strays:
        raise CheckpointError(
            f"{len(strays)} tensors of the adapter have no place in the base: {', '.join(strays[:5])}.",
            where=str(weights),
            hint=f"Is {base.path} the base it was trained on?",
        )
    _check_tied(folder, base, [*replaced, *(f"{module}.weight" for module in modules)])
    return AdapterFile(file, base, settings, modules, replaced)


def _check_tied(folder: Path, base: Checkpoint, changed: Collection[str]) -> None:
    """PEFT changes the embedding and leaves a tied head as it was; merged, the two would be one again."""
    for family in families():
        embedding, head = (family.by_role[role].pattern for role in ("embedding", "head"))
        if embedding in changed and embedding in base.tensors and head not in base.tensors:
            raise CheckpointError(
                f"changes {embedding}, which is also the head of {base.path}: the merge would change the head too.",
                where=str(folder),
                hint="Untie the base, merge, and save the result.",
            )


def read_settings(path: Path) -> AdapterSettings:
    """adapter_config.json, refused where it asks for a merge that is not a plain LoRA, rsLoRA or DoRA.

    Raises:
        CheckpointError: not JSON, of another kind, or with a setting that would change the merge.
    """
    config = _read(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _refused(path, f"an adapter of type {kind!r}; only LORA is merged here")
    how = config.get("init_lora_weights", True)
    if isinstance(how, str) and how not in KEEPS_BASE:
        raise _refused(path, f"initialised by {how!r}, which keeps a part of the base in the adapter")
    for key in ("alora_invocation_tokens", "target_parameters", "trainable_token_indices", "layer_replication"):
        if config.get(key):
            raise _refused(path, f"{key} is not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"rank {rank!r} and alpha {alpha!r} are not numbers to merge with.", where=str(path))
    return AdapterSettings(
        rank=rank,
        alpha=float(alpha),
        ranks=_patterns(config, "rank_pattern", path),
        alphas=_patterns(config, "alpha_pattern", path),
        rank_stabilised=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _patterns(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Module pattern -> number. Only names with dots: a free regular expression could run for ever."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{key} is not an object.", where=str(path))
    for pattern, value in patterns.items():
        if not re.fullmatch(r"[\w.]+", pattern):
            raise _refused(path, f"{key} has the pattern {pattern!r}, which is not a module's name")
        if type(value) not in (int, float) or value <= 0:
            raise CheckpointError(f"{key} of {pattern} is {value!r}, not a positive number.", where=str(path))
    return patterns


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > CONFIG_LIMIT:
        raise CheckpointError(f"{path.stat().st_size:,} bytes are no adapter config.", where=str(path))
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({error}).", where=str(path)) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"holds {type(config).__name__}, not a JSON object.", where=str(path))
    return config


def _check_module(
    module: str, parts: Mapping[str, str], file: WeightFile, base: Checkpoint, settings: AdapterSettings
) -> None:
    """Both factors are there, of one rank, and their product has the base's shape."""
    where, target = str(file.path), f"{module}.weight"
    factors = next((pair for pair in (LORA, EMBEDDING) if pair <= parts.keys()), None)
    if factors is None:
        raise CheckpointError(f"{module} has {', '.join(sorted(parts))} and lacks the rest.", where=where)
    if settings.dora != (_magnitude(parts) != "") or (settings.dora and factors == EMBEDDING):
        raise CheckpointError(f"{module}: no DoRA that can be merged here.", where=where, hint=MERGE)
    for wanted in _targets(module, parts):
        if wanted not in base.tensors:
            raise CheckpointError(
                f"changes {wanted}, which the base does not have.",
                where=where,
                hint=f"Is {base.path} the base it was trained on?",
            )
    first, second = (file.tensors[parts[name]].shape for name in sorted(factors))
    rank = _of(settings.ranks, module, settings.rank)
    if len(first) != 2 or len(second) != 2 or first[0] != rank or second[1] != rank:
        raise CheckpointError(
            f"{module}: factors {list(first)} and {list(second)} are not of rank {rank}.", where=where
        )
    flipped = settings.transposed or factors == EMBEDDING
    product = (first[1], second[0]) if flipped else (second[0], first[1])
    if product != base.tensors[target].shape:
        raise CheckpointError(
            f"{module}: the adapter changes {list(product)}, the base has {list(base.tensors[target].shape)}.",
            where=where,
            hint=f"Is {base.path} the base it was trained on?",
        )


def _targets(module: str, parts: Mapping[str, str]) -> tuple[str, ...]:
    """The base's tensors that the parts of one module change."""
    if not parts:
        return ()
    return (f"{module}.weight", f"{module}.bias") if "lora_B.bias" in parts else (f"{module}.weight",)


def _magnitude(parts: Mapping[str, str]) -> str:
    return next((stored for part, stored in parts.items() if part.startswith("lora_magnitude_vector")), "")


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that ends ``module``'s path, as PEFT reads them."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{why}.", where=str(path), hint=MERGE)
