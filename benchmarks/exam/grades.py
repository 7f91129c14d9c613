"""Grades of a metric by models whose truth is known (arXiv 2506.12618, with the symmetric forms of 2605.24614)."""

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
    """``1 - |u - r| / (|u| + |r|)`` of the changes of a score by the same relearning; 1 if neither changes."""
    size = abs(unlearned) + abs(retained)
    return 1.0 if size == 0 else 1 - abs(unlearned - retained) / size


def rounding_robustness(before: float, after: float) -> float:
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
