"""Grades of a metric by models whose truth is known (arXiv 2506.12618), also in the symmetric forms of 2605.24614.

The published forms are one-sided: a metric loses where relearning or rounding brings up what it had not shown before.
The symmetric ones also ask that it rises after relearning as much as in a model that never knew, which a metric that
showed the knowledge before cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from audit.statistics import Interval

RESAMPLES: Final = 2_000


def auc(positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties by half; NaN if either is empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    above, below = np.asarray(positive, float)[:, None], np.asarray(negative, float)[None]
    return float(((above > below) + 0.5 * (above == below)).mean())


def auc_interval(positive: Sequence[float], negative: Sequence[float], *, seed: int = 0) -> Interval:
    """95 % percentile interval of the AUC over resampled models, positives and negatives each by themselves."""
    rng = np.random.default_rng(seed)
    ones, others = np.asarray(positive, float), np.asarray(negative, float)
    draws = [
        auc(rng.choice(ones, len(ones)), rng.choice(others, len(others))) for _ in range(RESAMPLES if len(ones) else 0)
    ]
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (float("nan"), float("nan"))
    return float(low), float(high)


def relearning_robustness(unlearned: float, retained: float) -> float:
    """``retained / unlearned`` of the changes of a score by the same relearning, from 0 to 1; 1 if it does not rise.

    NaN if one of them is undefined.
    """
    if math.isnan(unlearned + retained):
        return math.nan
    return 1.0 if unlearned <= 0 else min(1.0, max(0.0, retained / unlearned))


def rounding_robustness(before: float, after: float) -> float:
    """``before / after``, from 0 to 1; 1 if the score does not rise, or only below 0; NaN if one is undefined."""
    if math.isnan(before + after):
        return math.nan
    return 1.0 if after <= max(before, 0.0) else max(0.0, before / after)


def symmetric_relearning(unlearned: float, retained: float) -> float:
    """``1 - |u - r| / (|u| + |r|)`` of the changes of a score by the same relearning; 1 if neither changes."""
    size = abs(unlearned) + abs(retained)
    return 1.0 if size == 0 else 1 - abs(unlearned - retained) / size


def symmetric_rounding(before: float, after: float) -> float:
    """``1 - |after - before| / (|after| + |before|)``; 1 if both are 0."""
    size = abs(before) + abs(after)
    return 1.0 if size == 0 else 1 - abs(after - before) / size


def harmonic(*values: float) -> float:
    """Harmonic mean of values that are not negative; 0 if one of them is, NaN if one of them is undefined."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Count and share with its Clopper-Pearson 95 % interval."""
    from scipy.stats import binomtest

    interval = binomtest(sum(hits), len(hits)).proportion_ci(0.95, method="exact")
    return {
        "count": sum(hits),
        "of": len(hits),
        "share": sum(hits) / len(hits),
        "low": float(interval.low),
        "high": float(interval.high),
    }
