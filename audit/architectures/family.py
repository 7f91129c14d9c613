"""A model family as data: one TOML file in this folder for each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Final

LAYER: Final = "{layer}"
EXPERT: Final = "{expert}"
LAYER_NUMBER: Final = re.compile(r"(?<=\.)(0|[1-9][0-9]{0,8})(?=\.)")
EXPERT_NUMBER: Final = re.compile(r"(?<=\.experts\.)(0|[1-9][0-9]{0,8})(?=\.)")


@dataclass(frozen=True)
class Template:
    """One kind of tensor in a family.

    Attributes:
        pattern: its name, with ``{layer}`` in place of the layer's number and ``{expert}`` in place of the expert's.
        role: its function, in the field's terms (``W_in``, ``W_out``, ``embedding``, ...).
        shape: dimension symbols (``"d_mlp"``) or multiples of one (``"3*d_model"``).
        group: the optional group it belongs to, which a model has in full or not at all; ``None`` for a tensor that
            every model of the family has.
        holds: FFN matrices stored one after another along the axis of their neurons, in equal parts.
    """

    pattern: str
    role: str
    shape: tuple[str, ...]
    group: str | None = None
    holds: tuple[str, ...] = ()

    @property
    def layered(self) -> bool:
        return LAYER in self.pattern

    @property
    def of_expert(self) -> bool:
        return EXPERT in self.pattern

    def name(self, layer: int, expert: int = 0) -> str:
        return self.pattern.replace(LAYER, str(layer)).replace(EXPERT, str(expert))


@dataclass(frozen=True)
class GgufNames:
    """The family's tensors and settings in GGUF: their names there, and what GGUF stores differently.

    Attributes:
        model_class: the transformers class, for ``architectures`` in the config.
        tensors: GGUF pattern -> pattern of the Hugging Face name.
        rotary: GGUF pattern of a tensor with interleaved rotary rows -> metadata key of its number of heads.
        config, optional_config: key of config.json -> metadata key.
        ignore: GGUF tensors without a counterpart in Hugging Face files; they scale rotary positions.
    """

    model_class: str
    tensors: Mapping[str, str]
    rotary: Mapping[str, str]
    config: Mapping[str, str]
    optional_config: Mapping[str, str]
    ignore: frozenset[str]


@dataclass(frozen=True)
class Family:
    """What all models of one family share; ``llama.toml`` shows the fields in use.

    Attributes:
        config: dimension symbol -> the key of config.json that states its size, or a product of keys.
        config_defaults: dimension symbol -> the keys that state its size where the first one is null or absent.
        runtime_parameters: parameter of the running model -> the stored tensors it consists of, where the names differ:
            concatenated along axis 0, and stacked over the experts where the names contain ``{expert}``.
        one_of: lists of optional groups of which a model has exactly one.
        unsupported: tensor pattern -> the unsupported variant of the family that it marks.
        unsupported_config: key of config.json -> value -> the unsupported variant that it marks.
        context: key of config.json that states the longest input, and the default where the key is absent.
        alibi: whether the family uses ALiBi positions, or the key of config.json that says so.
    """

    name: str
    model_types: tuple[str, ...]
    gated: bool
    norm_offset: float
    tied_by_default: bool
    prefix: str
    block_module: str
    out_module: str
    final_norm_module: str
    head_module: str
    ignore: tuple[str, ...]
    config: Mapping[str, str]
    config_defaults: Mapping[str, str]
    templates: tuple[Template, ...]
    runtime_parameters: Mapping[str, tuple[str, ...]]
    one_of: tuple[tuple[str, ...], ...]
    unsupported: Mapping[str, str]
    unsupported_config: Mapping[str, Mapping[str, str]]
    context: tuple[str, int | None]
    alibi: bool | str
    gguf: GgufNames | None

    @cached_property
    def by_role(self) -> Mapping[str, Template]:
        return {template.role: template for template in self.templates}

    def match(self, name: str) -> tuple[Template, int | None] | None:
        """The template that ``name`` matches, with its layer if it has one; ``None`` if no template matches."""
        pattern, layer = split_layer(name)
        template = self._by_pattern.get(pattern) or self._by_pattern.get(name)
        return (template, layer if template.layered else None) if template else None

    def ignores(self, name: str) -> bool:
        return name in self.ignore or split_layer(name)[0] in self.ignore

    @cached_property
    def _by_pattern(self) -> Mapping[str, Template]:
        return {template.pattern: template for template in self.templates}


def split_layer(name: str) -> tuple[str, int | None]:
    """``"model.layers.3.mlp.up_proj.weight"`` -> ``("model.layers.{layer}.mlp.up_proj.weight", 3)``.

    An expert's number becomes ``{expert}``; ``expert_of`` returns it.
    """
    match = LAYER_NUMBER.search(name)
    if not match:
        return name, None
    rest = EXPERT_NUMBER.sub(EXPERT, name[match.end() :])
    return name[: match.start()] + LAYER + rest, int(match.group())


def expert_of(name: str) -> int | None:
    """``"model.layers.3.block_sparse_moe.experts.5.w1.weight"`` -> ``5``."""
    match = EXPERT_NUMBER.search(name)
    return int(match.group()) if match else None


def count_layers_and_experts(names: Iterable[str]) -> tuple[int, int]:
    """The number of layers and of experts, from the highest numbers in ``names``."""
    layers = {layer for name in names if (layer := split_layer(name)[1]) is not None}
    experts = {expert for name in names if (expert := expert_of(name)) is not None}
    return 1 + max(layers, default=-1), 1 + max(experts, default=-1)


@cache
def families() -> tuple[Family, ...]:
    """All families in alphabetical order; a new TOML file adds one."""
    entries = sorted((entry for entry in files(__package__).iterdir() if entry.name.endswith(".toml")), key=str)
    return tuple(_family(tomllib.loads(entry.read_text(encoding="utf-8"))) for entry in entries)


def _family(data: dict[str, Any]) -> Family:
    gguf = data.get("gguf")
    return Family(
        name=data["name"],
        model_types=tuple(data["model_types"]),
        gated=data["gated"],
        norm_offset=data["norm_offset"],
        tied_by_default=data["tied_by_default"],
        prefix=data.get("prefix", ""),
        block_module=data["block_module"],
        out_module=data["out_module"],
        final_norm_module=data["final_norm_module"],
        head_module=data["head_module"],
        ignore=tuple(data["ignore"]),
        config=data["config"],
        config_defaults=data.get("config_defaults", {}),
        templates=tuple(_templates(data)),
        runtime_parameters={name: tuple(parts) for name, parts in data.get("runtime_parameters", {}).items()},
        one_of=tuple(tuple(groups) for groups in data.get("one_of", ())),
        unsupported=data.get("unsupported", {}),
        unsupported_config=data.get("unsupported_config", {}),
        context=(data.get("context", "max_position_embeddings"), data.get("context_default")),
        alibi=data.get("alibi", False),
        gguf=GgufNames(**{**gguf, "ignore": frozenset(gguf["ignore"])}) if gguf else None,
    )


def _templates(data: dict[str, Any]) -> Iterator[Template]:
    groups: list[tuple[str | None, dict[str, Any]]] = [(None, data["tensors"]), *data.get("optional", {}).items()]
    for group, tensors in groups:
        for pattern, entry in tensors.items():
            yield Template(pattern, entry["role"], tuple(entry["shape"]), group, tuple(entry.get("holds", ())))
