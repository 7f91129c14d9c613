"""``Architecture``: where every tensor of one model is, which role it has, and how large the model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from audit.architectures.family import Template, expert_of
from audit.architectures.fit import Fit

FFN_MATRICES = ("W_in", "W_gate", "W_out")


@dataclass(frozen=True)
class Piece:
    """Consecutive neurons of one FFN matrix: neuron ``first_neuron + i`` is index ``start + i`` along ``axis``.

    Attributes:
        name: the tensor that contains them.
        role: ``W_in``, ``W_gate`` or ``W_out``.
        count: how many neurons.
    """

    name: str
    role: str
    layer: int
    axis: int
    start: int
    first_neuron: int
    count: int


@dataclass(frozen=True)
class Architecture:
    """The layout of one model. It holds names and sizes; it knows neither files nor values.

    Attributes:
        name: the family.
        d_mlp: neurons in one layer; with experts, of all of them together.
        n_experts: experts in one layer, whose neurons follow one another; 0 for a dense FFN.
        tied: the head is the embedding, whether or not the file also stores it as a tensor of its own.
        norm_offset: what is added to a norm's weight before it scales (1 for Gemma, otherwise 0).
        roles: tensor name -> (role, layer or ``None``).
        neuron_axis: ``W_in``, ``W_gate``, ``W_out`` -> axis of the stored tensor along which neurons run.
        pieces: tensor name -> the FFN neurons it contains; one tensor may contain several matrices.
        head_name: the name of the head's tensor, whether or not it is stored.
        context: key of config.json that states the longest input, and the default where the key is absent.
        alibi: whether the model uses ALiBi positions, or the key of config.json that says so.
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
            LookupError: no tensor of the model has this role.
        """
        names = sorted((layer or 0, name) for name, (own_role, layer) in self.roles.items() if own_role == role)
        if not names and role != "head":
            known = ", ".join(sorted({own_role for own_role, _ in self.roles.values()}))
            raise LookupError(f"no {role!r} in {self.name}; its roles are {known}")
        return tuple(name for _, name in names)

    def matrix(self, role: str, layer: int) -> tuple[Piece, ...]:
        """The pieces of ``W_in``, ``W_gate`` or ``W_out`` of one layer, neuron 0 first."""
        return self._matrices[role, layer]

    @cached_property
    def _matrices(self) -> Mapping[tuple[str, int], tuple[Piece, ...]]:
        matrices: dict[tuple[str, int], list[Piece]] = {}
        for piece in sorted(chain.from_iterable(self.pieces.values()), key=lambda piece: piece.first_neuron):
            matrices.setdefault((piece.role, piece.layer), []).append(piece)
        return {key: tuple(pieces) for key, pieces in matrices.items()}


def build_architecture(fit: Fit, sizes: Mapping[str, int], tied: bool, notes: tuple[str, ...]) -> Architecture:
    """The architecture of a file whose names and shapes fit a family.

    Args:
        sizes: dimension symbol -> size, as ``fit_shapes`` returns them.
    """
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
        neuron_axis={role: _neuron_axis(template) for template in family.templates for role in _matrices_in(template)},
        pieces={
            name: _pieces(name, template, layer, sizes)
            for name, (template, layer) in fit.matched.items()
            if layer is not None and _matrices_in(template)
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


def _matrices_in(template: Template) -> list[str]:
    """The FFN matrices in such a tensor; none for a tensor of another role."""
    return [role for role in template.holds or (template.role,) if role in FFN_MATRICES]


def _pieces(name: str, template: Template, layer: int, sizes: Mapping[str, int]) -> tuple[Piece, ...]:
    """The neurons in a tensor that contains one or several FFN matrices."""
    axis = _neuron_axis(template)
    count = sizes["d_expert" if template.of_expert else "d_mlp"]
    first_neuron = (expert_of(name) or 0) * count
    return tuple(
        Piece(name, role, layer, axis, count * position, first_neuron, count)
        for position, role in enumerate(_matrices_in(template))
    )


def _neuron_axis(template: Template) -> int:
    """The axis along which neurons run: its size is ``d_mlp``, a multiple of it, or ``d_expert``."""
    return next(axis for axis, term in enumerate(template.shape) if term.endswith(("d_mlp", "d_expert")))
