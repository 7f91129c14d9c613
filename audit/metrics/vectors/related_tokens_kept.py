"""Share of the concept's tokens among a vector's top 200 that stay in the top 200 (Hong et al. 2024, related tokens).

Undefined for a vector with none of them before, which is excluded and counted; controls, chosen without regard to the
concept, often have none. A vector that is zero after keeps none: it scores 0.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.metrics.vectors._vectors import NEEDS, vector_measurement
from audit.result import Measured
from audit.vectors.trace import TracedVector

__all__ = ["NEEDS", "TITLE", "measure"]

TITLE = "Concept vectors: concept tokens kept"


def measure(evidence: Evidence) -> Measured:
    unit = "share of concept tokens in the top 200"
    return vector_measurement(evidence, score, unit=unit, direction="knowledge", unchanged=1.0)


def score(vector: TracedVector) -> float | None:
    before = vector.ranks_before < len(vector.top_before)
    if not before.any():
        return None
    if not np.any(vector.after):
        return 0.0
    kept = before & (vector.ranks_after < len(vector.top_after))
    return float(kept.sum() / before.sum())
