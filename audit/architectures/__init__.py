"""Which model family a file's tensors make up, proven name by name and shape by shape.

transformers fills a missing or misnamed tensor with random numbers and reports it in a log; a random layer then reads
as "knowledge removed". So a file either is a whole model of a family, or is refused with the tensor's name, or is of no
known family and gets evidence on tensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from audit.architectures.family import Family, GgufNames, Template, expert_of, families
from audit.architectures.fit import Fit, fit_names, fit_shapes
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from audit.checkpoint import Checkpoint

__all__ = ["Architecture", "Family", "GgufNames", "Piece", "Template", "families", "identify", "why_unknown"]

HEAD_ROWS = 4096
"""Rows of head and embedding compared at a time."""


MATRICES = ("W_in", "W_gate", "W_out")


@dataclass(frozen=True)
class Piece:
    """Where neurons of one FFN matrix lie: ``first_neuron + i`` is index ``start + i`` along ``axis`` of a tensor."""

    name: str
    role: str
    layer: int
    axis: int
    start: int
    first_neuron: int
    count: int


@dataclass(frozen=True)
class Architecture:
    """One model's layout: where everything is, and how large. Knows neither files nor values.

    Attributes:
        name: the family.
        tied: the head is the embedding, whether or not the file stores it a second time.
        norm_offset: what is added to a norm's weight before it scales (1 for Gemma, else 0).
        n_experts: how many experts share a layer's neurons, one expert's after another's; 0 in a dense FFN.
        roles: tensor name -> (role, layer or ``None``).
        neuron_axis: ``W_in``, ``W_gate``, ``W_out`` -> axis of the tensor as stored along which neurons run.
        pieces: every stretch of neurons in the file, by tensor name; a tensor may hold several matrices.
        head_name: the head's tensor in the file, whether or not it is stored.
        context: key of config.json that states the longest input, and what holds where it is silent.
        alibi: whether positions are counted from the attention mask, or the key of config.json that says so.
        block_module: module path, with ``{layer}``, whose output is the residual stream after the block.
        out_module: module path, with ``{layer}``, whose input is the key vector; with experts, the module of all.
        notes: what is unusual about this file, for the report.
    """

    name: str
    n_layers: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_experts: int
    gated: bool
    tied: bool
    norm_offset: float
    roles: Mapping[str, tuple[str, int | None]]
    neuron_axis: Mapping[str, int]
    pieces: Mapping[str, tuple[Piece, ...]]
    head_name: str
    context: tuple[str, int | None]
    alibi: bool | str
    block_module: str
    out_module: str
    final_norm_module: str
    head_module: str
    notes: tuple[str, ...] = ()

    def names(self, role: str) -> tuple[str, ...]:
        """The tensors of ``role``, layer 0 first; empty for a head that is not stored.

        Raises:
            LookupError: no model of this family has such a role.
        """
        found = sorted((layer or 0, name) for name, (its, layer) in self.roles.items() if its == role)
        if not found and role != "head":
            known = ", ".join(sorted({its for its, _ in self.roles.values()}))
            raise LookupError(f"no {role!r} in {self.name}; its roles are {known}")
        return tuple(name for _, name in found)

    def matrix(self, role: str, layer: int) -> tuple[Piece, ...]:
        """The pieces of ``W_in``, ``W_gate`` or ``W_out`` of one layer, neuron 0 first."""
        return self._matrices[role, layer]

    @cached_property
    def _matrices(self) -> Mapping[tuple[str, int], tuple[Piece, ...]]:
        found: dict[tuple[str, int], list[Piece]] = {}
        for piece in sorted(chain.from_iterable(self.pieces.values()), key=lambda piece: piece.first_neuron):
            found.setdefault((piece.role, piece.layer), []).append(piece)
        return {key: tuple(pieces) for key, pieces in found.items()}


def identify(checkpoint: Checkpoint, config: Mapping[str, Any] | None) -> Architecture | None:
    """The checkpoint's architecture, or ``None`` where its names are of no known family.

    With a config its ``model_type`` decides; without, the names do.

    Raises:
        CheckpointError: the file is of a known family but a tensor is missing, extra, misnamed or misshapen, or the
            config says something else than the file.
    """
    try:
        fit, alike = _choose(checkpoint, config)
        if fit is None:
            return None
        _refuse_variants(fit, config)
        if not fit.exact:
            raise CheckpointError(f"not a whole {fit.family.name} model of {fit.n_layers} layers: {fit.problems()}.")
        sizes = fit_shapes(fit, checkpoint.tensors)
        if config is not None:
            _check_config(fit.family, config, sizes)
        tied, notes = _tied(checkpoint, fit, config)
        return _architecture(fit, sizes, tied, (*alike, *notes))
    except CheckpointError as error:
        if error.where is not None:
            raise
        raise CheckpointError(error.message, where=str(checkpoint.path), hint=error.hint) from error


def why_unknown(checkpoint: Checkpoint, config: Mapping[str, Any] | None) -> str:
    """Why ``identify`` gave ``None``, for the report."""
    supported = ", ".join(sorted(model_type for family in families() for model_type in family.model_types))
    if any(name.startswith(("language_model.", "model.language_model.")) for name in checkpoint.tensors):
        return f"a multimodal model, which is not supported (supported: {supported})"
    if config is not None and config.get("model_type") is not None:
        return f"model_type {config['model_type']!r} of config.json is not supported (supported: {supported})"
    return f"the tensor names are of no supported family ({supported})"


def _choose(checkpoint: Checkpoint, config: Mapping[str, Any] | None) -> tuple[Fit | None, tuple[str, ...]]:
    """The family that config or names speak for, laid over the names, and a note where names speak for several."""
    model_type = config.get("model_type") if config is not None else None
    if model_type is not None:
        for family in families():
            if model_type in family.model_types:
                fit = fit_names(family, checkpoint.tensors)
                if fit is None:
                    raise CheckpointError(f"config.json says {model_type}, but no tensor has a name of that family.")
                return fit, ()
        return None, ()
    fits = [fit for family in families() if (fit := fit_names(family, checkpoint.tensors))]
    best = min(fits, key=lambda fit: len(fit.missing) + len(fit.extra), default=None)
    if best is None or best.n_layers == 0 or (best.is_another_family and not best.refused):
        return None, ()
    others = [fit.family.name for fit in fits if fit is not best and fit.exact]
    alike = f"without config.json the names read as {best.family.name}; those of {', '.join(others)} are the same"
    return best, (alike,) if others else ()


def _refuse_variants(fit: Fit, config: Mapping[str, Any] | None) -> None:
    """Stop at a variant of the family that its file says is not supported."""
    for key, values in fit.family.refused_config.items():
        stated = json.dumps((config or {}).get(key))
        if stated in values:
            raise CheckpointError(f"config.json has {key} = {stated}: {values[stated]}, which is not supported.")
    for name, variant in fit.refused:
        raise CheckpointError(f"holds {name}: {variant}, which is not supported.")


def _check_config(family: Family, config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Every size that the config states is the file's."""
    for symbol, keys in family.config.items():
        stated = _stated(keys, config)
        if stated is None and symbol in family.config_defaults:
            keys = family.config_defaults[symbol]
            stated = _stated(keys, config)
        if stated is not None and stated != sizes[symbol]:
            raise CheckpointError(
                f"config.json says {keys} = {stated:,}, but the file has {sizes[symbol]:,}.",
                hint="Pass the config that belongs to these weights with --config.",
            )


def _stated(keys: str, config: Mapping[str, Any]) -> int | None:
    """The product of ``keys`` (or whole numbers) joined by ``*``; ``None`` where the config is silent on one."""
    factors = []
    for key in keys.split(" * "):
        value = int(key) if key.isdigit() else config.get(key)
        if value is None:
            return None
        if type(value) is not int or value < 1:
            raise CheckpointError(f"config.json has {key} = {value!r}, which is not a positive whole number.")
        factors.append(value)
    return prod(factors)


def _tied(checkpoint: Checkpoint, fit: Fit, config: Mapping[str, Any] | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the head is the embedding, and what to say about it."""
    head, embedding = fit.family.by_role["head"].pattern, fit.family.by_role["embedding"].pattern
    expected = None if config is None else config.get("tie_word_embeddings", fit.family.tied_by_default)
    if head not in fit.matched:
        if expected is False:
            raise CheckpointError(
                f"{head} is missing: config.json does not tie the head to the embedding.",
                hint="If they are tied, set tie_word_embeddings in config.json.",
            )
        return True, ()
    if _equal(checkpoint, head, embedding):
        return True, (f"{head} is stored although it equals the embedding",)
    if expected:
        return False, (f"config.json ties the head to the embedding, but {head} is stored and differs; it is used",)
    return False, ()


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors of one shape are bitwise equal; reads on only while they are."""
    a, b = checkpoint.tensors[one], checkpoint.tensors[other]
    return a.dtype == b.dtype and all(
        torch.equal(
            checkpoint.rows(one, start, min(start + HEAD_ROWS, a.shape[0])).view(torch.uint8),
            checkpoint.rows(other, start, min(start + HEAD_ROWS, a.shape[0])).view(torch.uint8),
        )
        for start in range(0, a.shape[0], HEAD_ROWS)
    )


def _architecture(fit: Fit, sizes: Mapping[str, int], tied: bool, notes: tuple[str, ...]) -> Architecture:
    family = fit.family
    return Architecture(
        name=family.name,
        n_layers=fit.n_layers,
        d_model=sizes["d_model"],
        d_mlp=sizes["d_mlp"],
        d_vocab=sizes["d_vocab"],
        n_experts=sizes.get("n_experts", 0),
        gated=family.gated,
        tied=tied,
        norm_offset=family.norm_offset,
        roles={name: (template.role, layer) for name, (template, layer) in fit.matched.items()},
        neuron_axis={
            role: _neuron_axis(template)
            for template in family.templates
            for role in template.holds or (template.role,)
            if role in MATRICES
        },
        pieces={
            name: found
            for name, (template, layer) in fit.matched.items()
            if (found := _pieces(name, template, layer, sizes))
        },
        head_name=family.by_role["head"].pattern,
        context=family.context,
        alibi=family.alibi,
        block_module=family.block_module,
        out_module=family.out_module,
        final_norm_module=family.final_norm_module,
        head_module=family.head_module,
        notes=notes,
    )


def _pieces(name: str, template: Template, layer: int | None, sizes: Mapping[str, int]) -> tuple[Piece, ...]:
    """What of which FFN matrices a tensor holds; nothing where it is no FFN matrix."""
    roles = [role for role in template.holds or (template.role,) if role in MATRICES]
    if layer is None or not roles:
        return ()
    axis = _neuron_axis(template)
    count = sizes["d_expert" if template.of_expert else "d_mlp"]
    first = (expert_of(name) or 0) * count
    return tuple(Piece(name, role, layer, axis, count * place, first, count) for place, role in enumerate(roles))


def _neuron_axis(template: Template) -> int:
    """The axis along which neurons run: of size ``d_mlp`` or a multiple, or of ``d_expert``, one expert's share."""
    return next(axis for axis, term in enumerate(template.shape) if term.endswith(("d_mlp", "d_expert")))
