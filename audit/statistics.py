"""Intervals, by scipy's bootstrap, with the cases that have none answered honestly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95

Interval = tuple[float, float]


def bootstrap_interval(values: np.ndarray, *, seed: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Percentile bootstrap interval of the mean of ``values`` ``[n]``.

    ``None`` for fewer than two values: one value has no spread. Equal values give an interval of no width.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap  # slow to import

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_difference_interval(
    after: np.ndarray, before: np.ndarray, *, seed: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of the mean of ``after - before`` over the same items, ``[n]`` each."""
    if len(after) != len(before):
        raise ValueError(f"paired values need equal numbers of items, not {len(after)} and {len(before)}")
    return bootstrap_interval(np.asarray(after) - np.asarray(before), seed=seed, confidence=confidence)


def two_sample_interval(
    one: np.ndarray,
    other: np.ndarray,
    statistic: Callable[..., np.ndarray],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Percentile bootstrap interval of ``statistic(one, other, axis=...)``, each sample drawn from apart.

    ``None`` for fewer than two values in either.
    """
    if min(len(one), len(other)) < 2:
        return None
    from scipy.stats import bootstrap  # slow to import

    found = bootstrap(
        (one, other),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
