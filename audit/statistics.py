"""Confidence intervals and p-values over items; ``None`` where an interval is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

RESAMPLES = 2_000
CONFIDENCE = 0.95
EXACT_FLIPS = 14
"""Values whose 16,384 combinations of signs are all enumerated."""
ROUNDING = 1e-9
"""Draws that equal the observed statistic up to rounding count as reaching it."""

Interval = tuple[float, float]
Statistic = Callable[..., np.ndarray]
"""``statistic(*samples, axis=...)``: reduces the samples ``[..., n]`` along ``axis``."""


@runtime_checkable
class _Bootstrap(Protocol):
    """What is read of ``scipy.stats.bootstrap``'s result."""

    confidence_interval: Any


def bootstrap_interval(values: Real[np.ndarray, " n"], *, seed: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Percentile bootstrap interval of the mean of ``values``.

    ``None`` for fewer than two values: one value has no spread. Equal values give an interval of width 0.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = _bootstrap((values,), np.mean, seed, confidence).confidence_interval
    return float(interval.low), float(interval.high)


def paired_difference_interval(
    after: Real[np.ndarray, " n_after"],
    before: Real[np.ndarray, " n_before"],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Interval of the mean of ``after - before`` over the same items.

    Raises:
        ValueError: the two have different numbers of items.
    """
    _check_paired(after, before)
    return bootstrap_interval(np.asarray(after) - np.asarray(before), seed=seed, confidence=confidence)


def ratio_interval(
    numerators: Real[np.ndarray, " n_above"],
    denominators: Real[np.ndarray, " n_below"],
    *,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Interval of ``mean(numerators) / mean(denominators)`` over the same items, by Fieller's method.

    The interval holds every ratio ``r`` for which ``numerators - r * denominators`` has a mean that a t-test does not
    distinguish from 0; for normal values its coverage is exact. ``None`` where the ratio is undefined: fewer than two
    items, or a mean of the denominators that is not above 0 at this confidence, for which the set is unbounded.

    Raises:
        ValueError: the two have different numbers of items.
    """
    _check_paired(numerators, denominators)
    n = len(numerators)
    if n < 2:
        return None
    above, below = float(np.mean(numerators)), float(np.mean(denominators))
    covariance = np.cov(numerators, denominators) / n
    return _fieller(above, below, covariance, n - 1, confidence)


def independent_ratio_interval(
    numerators: Real[np.ndarray, " n_above"],
    denominators: Real[np.ndarray, " n_below"],
    *,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The same over different items, with the degrees of freedom of the smaller sample, which widens the interval."""
    fewest = min(len(numerators), len(denominators))
    if fewest < 2:
        return None
    variances = [np.var(values, ddof=1) / len(values) for values in (numerators, denominators)]
    above, below = float(np.mean(numerators)), float(np.mean(denominators))
    return _fieller(above, below, np.diag(variances), fewest - 1, confidence)


def _fieller(
    above: float, below: float, covariance: Float[np.ndarray, "2 2"], degrees: int, confidence: float
) -> Interval | None:
    """The ratios ``r`` with ``(above - r * below)^2 <= t^2 * variance(above - r * below)``, if they are an interval.

    Args:
        covariance: of the two means.
    """
    from scipy.stats import t  # slow to import

    factor = float(t.ppf((1 + confidence) / 2, degrees)) ** 2
    a = below**2 - factor * float(covariance[1, 1])
    b = above * below - factor * float(covariance[0, 1])
    c = above**2 - factor * float(covariance[0, 0])
    if a <= 0 or below <= 0:
        return None
    half = math.sqrt(max(b**2 - a * c, 0.0))  # below 0 only by rounding
    return (b - half) / a, (b + half) / a


def sign_flip_p_value(values: Real[np.ndarray, " n"], *, seed: int, draws: int = 9_999) -> float:
    """One-sided p-value of the sign-flip test: is the mean of ``values`` above 0?

    Null hypothesis: each value is as likely to have the opposite sign. Exact for up to ``EXACT_FLIPS`` values, for
    which all combinations of signs are enumerated; for more, ``draws`` combinations are drawn.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n <= EXACT_FLIPS:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((_signed(flipped, values) >= values.sum() - ROUNDING).mean())
    flipped = np.random.default_rng(seed).integers(0, 2, size=(draws, n))
    return drawn_p_value(_signed(flipped, values) >= values.sum() - ROUNDING)


def two_sample_p_value(
    one: Real[np.ndarray, " n_one"], other: Real[np.ndarray, " n_other"], *, seed: int, draws: int = 9_999
) -> float:
    """One-sided p-value of the permutation test: is the mean of ``one`` above that of ``other``?

    Null hypothesis: the values of both are exchangeable.
    """
    together = np.concatenate([one, other]).astype(np.float64)
    shuffled = np.random.default_rng(seed).permuted(np.tile(together, (draws, 1)), axis=1)
    sums = shuffled[:, : len(one)].sum(axis=1)
    return drawn_p_value(sums >= np.sum(one) - ROUNDING)


def _signed(flipped: np.ndarray, values: np.ndarray) -> Float[np.ndarray, " n_draws"]:
    """Sums of ``values``, with the opposite sign where ``flipped`` is 1."""
    sums: np.ndarray = (1 - 2 * flipped) @ values
    return sums


def drawn_p_value(reached: Bool[np.ndarray, " n_draws"]) -> float:
    """Share of the draws that reach the observed statistic, which counts as one more draw."""
    return float((1 + reached.sum()) / (1 + len(reached)))


def two_sample_interval(
    one: Shaped[np.ndarray, " n_one *dims"],
    other: Shaped[np.ndarray, " n_other *dims"],
    statistic: Statistic,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Percentile bootstrap interval of ``statistic(one, other, axis=...)``; the samples are resampled independently.

    ``None`` for fewer than two values in either.
    """
    if min(len(one), len(other)) < 2:
        return None
    interval = _bootstrap((one, other), statistic, seed, confidence).confidence_interval
    return float(interval.low), float(interval.high)


def share_interval(hits: Shaped[np.ndarray, " n"], confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of the mean of ``hits`` (0 or 1 each); it is defined at shares of 0 and 1 too."""
    from scipy.stats import binomtest

    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Statistic, seed: int, confidence: float) -> _Bootstrap:
    from scipy.stats import bootstrap  # slow to import

    result: _Bootstrap = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return result


def _check_paired(one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other):
        raise ValueError(f"paired values need equal numbers of items, not {len(one)} and {len(other)}")
