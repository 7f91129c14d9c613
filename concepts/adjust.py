"""Which neurons carry a skill, by what two sets of queries do to them: the choice of Neuron Adjust and of pruning.

Source: Li, Sun, Weng, *Effective Skill Unlearning through Intervention and Abstention*, NAACL 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SPREAD_FLOOR = 1e-6
"""Smallest standard deviation, so that a neuron with constant activations has a density."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (not variance) of every neuron over one set of queries."""

    mean: Float[np.ndarray, "*neurons"]
    std: Float[np.ndarray, "*neurons"]


def top_share(
    scores: Float[np.ndarray, "n_layers d_mlp"], share: float, layers: Sequence[int] = ()
) -> Int[np.ndarray, "k 2"]:
    """(layer, neuron) of the highest scores in ``layers``: a ``share`` of them, at least one, best first.

    Ties go to the lower index.

    Args:
        layers: layers to choose from; the share is of their neurons. All layers if empty.

    Raises:
        ValueError: a share outside (0, 1], or a layer that the model does not have.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of neurons must be in (0, 1], not {share}")
    if not all(0 <= layer < len(scores) for layer in layers):
        raise ValueError(f"layers {list(layers)} do not exist; the model has layers 0 to {len(scores) - 1}")
    among = np.unique(layers).astype(int) if layers else np.arange(len(scores))
    own = scores[among]
    best = np.argsort(-own, axis=None, kind="stable")[: max(1, round(share * own.size))]
    layer, neuron = np.unravel_index(best, own.shape)
    return np.stack([among[layer], neuron], axis=1)


def mean_difference(forget: Moments, retain: Moments, absolute: bool = False) -> Float[np.ndarray, "*neurons"]:
    """Forget mean minus retain mean, or its absolute value."""
    difference = forget.mean - retain.mean
    return np.asarray(np.abs(difference) if absolute else difference)
