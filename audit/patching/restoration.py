"""Component classes of the base put into another model (Hong et al. 2024, arXiv 2410.06606).

An activation (embedding, attention output, coefficient) is put in at every position of the question, weights (value
vectors) at every position of the sequence. Classes with layers are put in for windows of layers, and for all layers at
once. Where activations of *another* question's run are put in, whatever comes back is not the fact: that is the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from audit.architectures import Architecture
from audit.checkpoint import Checkpoint
from audit.models.loading import RunningModel
from audit.patching.runs import BaseAnswers, Run, Scores
from audit.patching.sites import Activations, Alignment, Site, putting_in, sites_of

Class = Literal["embedding", "attention", "coefficients", "value vectors", "readout", "all but the readout"]
WINDOWS: Final = 6
"""Windows that the layers are divided into: five layers each in a model of thirty."""


@dataclass(frozen=True)
class Restored:
    """What one class of the base brings back in another model.

    Attributes:
        layers: first and last layer; ``None`` for a class without layers.
        floor: whether the activations are those of another question.
    """

    component: Class
    layers: tuple[int, int] | None
    floor: bool
    scores: Scores


@dataclass(frozen=True, eq=False)
class BaseRun:
    """One batch as the base ran it, and the same answers after the other questions.

    Attributes:
        other: activations of the other questions' rows.
        alignment: of those rows with the batch's.
    """

    answers: BaseAnswers
    activations: Activations
    other: Activations
    alignment: Alignment


@dataclass(frozen=True)
class _Patch:
    component: Class
    layers: tuple[int, int] | None
    sites: Mapping[str, Site]
    weights: tuple[str, ...] = ()
    floor: bool = False


def windows(n_layers: int) -> list[tuple[int, int]]:
    """First and last layer of each window, in order."""
    width = max(1, round(n_layers / WINDOWS))
    return [(first, min(first + width, n_layers) - 1) for first in range(0, n_layers, width)]


def n_patches(architecture: Architecture) -> int:
    """Number of passes over the facts that ``restore`` takes."""
    return sum(1 for _ in _patches(architecture))


def restore(run: Run, base: Sequence[BaseRun], checkpoint: Checkpoint) -> Iterator[Restored]:
    """Each class of the base put into ``run``'s model.

    Args:
        base: the batches of ``run``, as the base ran them.
        checkpoint: the base's weights.

    Raises:
        ModelError: an output is not finite.
    """
    for patch in _patches(run.model.architecture):
        with restored_weights(run.model, checkpoint, patch.weights):
            # weights change what is computed at the common beginning too
            patched = Run(run.model, run.rows, run.batches) if patch.weights else run
            scores = [_score(patched, patch, batch, kept) for batch, kept in zip(run.batches, base, strict=True)]
        if patched is not run:
            run.passes += patched.passes
        yield Restored(patch.component, patch.layers, patch.floor, in_order(run.batches, scores))


def _score(run: Run, patch: _Patch, batch: Sequence[int], base: BaseRun) -> np.ndarray:
    activations, alignment = (base.other, base.alignment) if patch.floor else (base.activations, None)
    with putting_in(run.model, activations, patch.sites, alignment):
        return base.answers.score(run.forward(batch))


def in_order(batches: Sequence[Sequence[int]], values: Sequence[np.ndarray]) -> Scores:
    """The scores of all questions from those of each batch ``[4, *runs, n_rows]``."""
    order = [index for batch in batches for index in batch]
    return Scores.of(np.concatenate(values, axis=-1)[..., np.argsort(order)])


@contextmanager
def restored_weights(model: RunningModel, checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[None]:
    """Let ``model`` have the checkpoint's parameters of these names inside the block."""
    kept: dict[str, Tensor] = {name: model.model.get_parameter(name).detach().clone() for name in names}
    try:
        with torch.no_grad():
            for name in names:
                model.model.get_parameter(name).copy_(checkpoint.parameter(name))
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                model.model.get_parameter(name).copy_(values)


def _patches(architecture: Architecture) -> Iterator[_Patch]:
    """Every class in every window, all layers of it, everything together, and the floors."""
    sites = sites_of(architecture)
    last = architecture.n_layers - 1
    every = (0, last)
    yield _Patch("embedding", None, _chosen(sites, "embedding"))
    for layers in [*windows(architecture.n_layers), every]:
        yield _Patch("attention", layers, _chosen(sites, "attention", layers))
        if not architecture.n_experts:
            yield _Patch("coefficients", layers, _chosen(sites, "coefficients", layers))
            yield _Patch("value vectors", layers, {}, _value_weights(architecture, layers))
    yield _Patch("attention", every, _chosen(sites, "attention"), floor=True)
    if not architecture.n_experts:
        yield _Patch("coefficients", every, _chosen(sites, "coefficients"), floor=True)
        yield _Patch("all but the readout", every, sites, _value_weights(architecture, every))


def _chosen(sites: Mapping[str, Site], component: str, layers: tuple[int, int] | None = None) -> dict[str, Site]:
    return {
        name: site
        for name, site in sites.items()
        if site.component == component
        and (layers is None or site.layer is None or layers[0] <= site.layer <= layers[1])
    }


def _value_weights(architecture: Architecture, layers: tuple[int, int]) -> tuple[str, ...]:
    """The value matrices of these layers, and the biases beside them where there are some."""
    roles = {"W_out", "out_bias"}
    return tuple(
        name
        for name, (role, layer) in architecture.roles.items()
        if role in roles and layer is not None and layers[0] <= layer <= layers[1]
    )
