"""Jaccard index of the 200 tokens each concept vector writes, before and after (Hong et al. 2024, section 5).

Before is projected through the base's head, after through the unlearned model's own, on the side that carries the
concept. With ``i`` shared tokens it is ``i / (400 - i)``. Undefined for a vector that is zero after: all logits tie.
Such a vector counts as 0.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.metrics.vectors._vectors import NEEDS, vector_measurement
from audit.result import Measured
from audit.vectors.trace import TracedVector

__all__ = ["NEEDS", "TITLE", "measure"]

TITLE = "Concept vectors: overlap of the top 200 tokens"


def measure(evidence: Evidence) -> Measured:
    """Mean Jaccard index over the concept's vectors."""
    return vector_measurement(evidence, score, unit="Jaccard index", direction="knowledge", unchanged=1.0)


def score(vector: TracedVector) -> float | None:
    if not np.any(vector.after):
        return 0.0
    before, after = set(vector.top_before.tolist()), set(vector.top_after.tolist())
    return len(before & after) / len(before | after)
