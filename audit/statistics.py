"""Intervals, by scipy's bootstrap, with the cases that have none answered honestly."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Tosses that equal the observed statistic up to rounding count as reaching it."""

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


def sign_flip_p_values(values: np.ndarray, *, seed: int, draws: int = 9_999) -> np.ndarray:
    """One-sided p-value of each row's mean being above 0 ``[n_rows]``, choosing the best row paid for.

    Null: each item's sign is a coin toss, the same toss in all rows. Rows are in units of their own spread under it,
    and each toss counts by its largest row. All ``2**n`` tosses are counted out where they are no more than ``draws``.

    Args:
        values: ``[n_rows, n_items]``; an item that a row lacks is 0 there and takes no part.
    """
    n_items = values.shape[1]
    complete = 2**n_items <= draws
    if complete:
        signs = 1 - 2 * ((np.arange(2**n_items)[:, None] >> np.arange(n_items)) & 1)
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), size=(draws, n_items))
    spread = np.sqrt((values**2).sum(axis=1))
    scaled = values / np.where(spread > 0, spread, np.inf)[:, None]
    largest = (signs @ scaled.T).max(axis=1)
    reached = (largest[:, None] >= scaled.sum(axis=1) - ROUNDING).sum(axis=0)
    found: np.ndarray = reached / len(signs) if complete else (1 + reached) / (1 + len(signs))
    return found
