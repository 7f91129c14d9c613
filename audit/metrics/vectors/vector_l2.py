"""Euclidean distance of each concept vector before and after, relative to its norm (Hong et al. 2024, section 5).

``|after - before| / |before|``: 0 is unchanged, 1 is a zeroed vector. The paper's absolute distance, which cannot be
compared across layers, is in ``details``. Undefined for a vector that was zero before.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.metrics.vectors._vectors import NEEDS, mean_or_none, vector_measurement
from audit.result import Measured
from audit.vectors.trace import TracedVector

__all__ = ["NEEDS", "TITLE", "measure"]

TITLE = "Concept vectors: distance before and after"


def measure(evidence: Evidence) -> Measured:
    traced = evidence.vectors
    absolute = [distance(vector) for vector in traced.vectors] if traced is not None else []
    return vector_measurement(
        evidence,
        score,
        unit="L2 distance / norm before",
        direction="change",
        unchanged=0.0,
        details={"mean_l2": mean_or_none(absolute)},
    )


def distance(vector: TracedVector) -> float:
    return float(np.linalg.norm(vector.after.astype(np.float64) - vector.before))


def score(vector: TracedVector) -> float | None:
    norm = float(np.linalg.norm(vector.before.astype(np.float64)))
    return distance(vector) / norm if norm else None
