"""Intervals, by scipy's bootstrap, with the cases that have none answered honestly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Draws that equal the observed statistic up to rounding count as reaching it."""

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


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of ``mean(numerators) / mean(denominators)`` over the same items, ``[n]`` each, by paired bootstrap.

    ``None`` where the ratio is undefined: fewer than two items, or denominators whose mean is not above 0 at that
    confidence. The few resamples in which it still is not above 0 are left out.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"paired values need equal numbers of items, not {len(numerators)} and {len(denominators)}")
    if len(numerators) < 2:
        return None
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    drawn = np.random.default_rng(seed).integers(len(numerators), size=(RESAMPLES, len(numerators)))
    below = denominators[drawn].mean(axis=1)
    if np.quantile(below, tails[0]) <= 0:
        return None
    usable = below > 0
    low, high = np.quantile(numerators[drawn].mean(axis=1)[usable] / below[usable], tails)
    return float(low), float(high)


def exchange_p_values(scores: Sequence[Sequence[np.ndarray]], *, seed: int, draws: int = 9_999) -> np.ndarray:
    """One-sided p-value, for each row, of first candidates scoring above the others; choosing the best row is paid for.

    Null: of an item's candidates any might be the first, the same one in all rows. A row's statistic is the sum over
    its items of that candidate's score above the item's mean; rows are in units of their own spread under the null, and
    each draw counts by its largest row.

    Args:
        scores: row -> item -> scores of its candidates ``[n_candidates]``, the first one's first. All rows have the
            same items; where a row lacks one it is empty, and takes no part.
    """
    drawn = np.random.default_rng(seed).random((len(scores[0]), draws))
    observed, null = np.zeros(len(scores)), np.zeros((len(scores), draws))
    for number, row in enumerate(scores):
        centred = [(items - items.mean(), chosen) for items, chosen in zip(row, drawn, strict=True) if items.size]
        spread = np.sqrt(sum(above.var() for above, _ in centred)) or np.inf
        observed[number] = sum(above[0] for above, _ in centred) / spread
        null[number] = sum(above[(chosen * above.size).astype(int)] for above, chosen in centred) / spread
    reached = (null.max(axis=0) >= observed[:, None] - ROUNDING).sum(axis=1)
    found: np.ndarray = (1 + reached) / (1 + draws)
    return found


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


def share_interval(hits: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of a share, which holds at 0 and 1 too."""
    from scipy.stats import binomtest

    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
