"""adapter_config.json of a PEFT adapter: the settings of a merge. A setting that we cannot merge is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from audit.checkpoint.json_file import read_json_object
from audit.errors import CheckpointError

ADAPTER_CONFIG: Final = "adapter_config.json"
SIZE_LIMIT: Final = 10_000_000  # bytes
KEEPS_BASE: Final = ("gaussian", "eva", "orthogonal")
"""Named initialisations that leave the base unchanged; the others subtract the initial product from it."""
NOT_SUPPORTED: Final = (
    "alora_invocation_tokens",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
)
MERGE_HINT: Final = "Merge it into its base and save the result."

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class AdapterSettings:
    """The settings that decide what a LoRA adapter adds to its base.

    Attributes:
        rank, alpha: of every module that no pattern in ``ranks`` or ``alphas`` matches.
        rank_stabilised: whether the product is scaled by ``alpha / sqrt(rank)`` (rsLoRA) and not ``alpha / rank``.
        dora: whether each output row is scaled to a learned norm.
        transposed: whether the base stores its matrices as ``[in, out]``, as GPT-2 does.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    dora: bool
    transposed: bool

    def module_rank(self, module: str) -> int:
        return _by_pattern(self.ranks, module, self.rank)

    def scaling(self, module: str) -> float:
        """The factor of ``B A`` in ``module``."""
        rank, alpha = self.module_rank(module), _by_pattern(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


def read_settings(path: Path) -> AdapterSettings:
    """The settings in adapter_config.json of a LoRA, rsLoRA or DoRA adapter.

    Raises:
        CheckpointError: not JSON, an adapter of another kind, or a setting that changes the merge and is not supported.
    """
    config = read_json_object(path, SIZE_LIMIT, "an adapter config")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _not_mergeable(path, f"an adapter of type {kind!r}; only LORA is merged here")
    initialisation = config.get("init_lora_weights", True)
    if isinstance(initialisation, str) and initialisation not in KEEPS_BASE:
        raise _not_mergeable(path, f"initialised by {initialisation!r}, which keeps a part of the base in the adapter")
    for key in NOT_SUPPORTED:
        if config.get(key):
            raise _not_mergeable(path, f"{key} is not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"rank {rank!r} and alpha {alpha!r} are not usable numbers.", where=str(path))
    return AdapterSettings(
        rank=rank,
        alpha=float(alpha),
        ranks=_patterns(config, "rank_pattern", path, int),
        alphas=_patterns(config, "alpha_pattern", path, float),
        rank_stabilised=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _patterns(config: Mapping[str, Any], key: str, path: Path, number: type[Number]) -> dict[str, Number]:
    """Module pattern -> number. Plain dotted names only: matching a regular expression from a file may never end."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{key} is not an object.", where=str(path))
    for pattern, value in patterns.items():
        if not re.fullmatch(r"[\w.]+", pattern):
            raise _not_mergeable(path, f"{key} has the pattern {pattern!r}, which is not a module's name")
        if type(value) not in (int, number) or value <= 0:
            kind = "whole number" if number is int else "number"
            raise CheckpointError(f"{key} of {pattern} is {value!r}, not a positive {kind}.", where=str(path))
    return {pattern: number(value) for pattern, value in patterns.items()}


def _by_pattern(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that matches the end of the module's path, as PEFT matches them."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _not_mergeable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{reason}.", where=str(path), hint=MERGE_HINT)
