"""Neuron Adjust and selective pruning on arrays: which neurons carry a skill, and what their values become.

Source: Li, Sun, Weng, *Effective Skill Unlearning through Intervention and Abstention*, NAACL 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

SPREAD_FLOOR = 1e-6
"""Least standard deviation, so that a neuron that never moves has a density."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (not variance) of every neuron over one set of queries."""

    mean: Float[np.ndarray, "*neurons"]
    std: Float[np.ndarray, "*neurons"]


def measure(values: Float[np.ndarray, "n ..."]) -> Moments:
    """Moments over the first axis, in float64; ValueError below two rows or where a value is not finite."""
    if len(values) < 2:
        raise ValueError(f"a spread needs at least 2 queries, found {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError("the activations hold values that are not finite")
    exact = np.asarray(values, dtype=np.float64)
    return Moments(exact.mean(axis=0), np.maximum(exact.std(axis=0), SPREAD_FLOOR))


def top_share(scores: Float[np.ndarray, "n_layers d_mlp"], share: float) -> Int[np.ndarray, "k 2"]:
    """(layer, neuron) of the ``share`` highest scores over all layers, at least one, best first; ties by index."""
    if not 0 < share <= 1:
        raise ValueError(f"the share of neurons must lie in (0, 1], found {share}")
    count = max(1, round(share * scores.size))
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    return np.stack(np.unravel_index(best, scores.shape), axis=1)


def mean_difference(forget: Moments, retain: Moments, absolute: bool = False) -> Float[np.ndarray, "*neurons"]:
    """Forget mean minus retain mean, or its size."""
    difference = forget.mean - retain.mean
    return np.asarray(np.abs(difference) if absolute else difference)


def activity_ratio(
    forget: Float[np.ndarray, "n ..."], retain: Float[np.ndarray, "m ..."]
) -> Float[np.ndarray, "*neurons"]:
    """Mean absolute activation under forget queries over that under retain ones: the score of selective pruning."""
    above = np.abs(np.asarray(forget, dtype=np.float64)).mean(axis=0)
    below = np.abs(np.asarray(retain, dtype=np.float64)).mean(axis=0)
    return np.asarray(above / np.maximum(below, SPREAD_FLOOR))


def forget_probability(
    values: Float[np.ndarray, "*batch k"], forget: Moments, retain: Moments
) -> Float[np.ndarray, "*batch k"]:
    """``p_f / (p_f + p_r)`` of each value, from log densities: both may underflow and the answer stays right."""
    to_forget = (values - forget.mean) / forget.std
    to_retain = (values - retain.mean) / retain.std
    odds = 0.5 * (to_retain**2 - to_forget**2) + np.log(retain.std) - np.log(forget.std)
    return np.asarray(expit(odds))


def adjust(
    values: Float[np.ndarray, "*batch k"], forget: Moments, retain: Moments, generator: np.random.Generator
) -> Float[np.ndarray, "*batch k"]:
    """Values likelier under forget queries, reflected into the retain distribution with that probability.

    Where ``p_f > p_r``, ``x`` becomes ``mu_r - s_r (x - mu_f) / s_f`` with probability ``p_f / (p_f + p_r)``;
    every element has a draw of its own.
    """
    chance = forget_probability(values, forget, retain)
    reflected = retain.mean - retain.std * (values - forget.mean) / forget.std
    drawn = generator.random(values.shape) < chance
    return np.where((chance > 0.5) & drawn, reflected, values)
