"""Jaccard index of each concept vector's top 200 tokens before and after (Hong et al. 2024, section 5).

Each is projected through its own model's head, with the sign that promotes the concept. With ``i`` shared tokens the
index is ``i / (400 - i)``. A vector that is zero after has no top tokens, since all logits tie, and scores 0.
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
    return vector_measurement(evidence, score, unit="Jaccard index", direction="knowledge", unchanged=1.0)


def score(vector: TracedVector) -> float | None:
    if not np.any(vector.after):
        return 0.0
    before, after = set(vector.top_before.tolist()), set(vector.top_after.tolist())
    return len(before & after) / len(before | after)
