"""Fall in rank of the concept's tokens under a vector: mean of ``log10((rank after + 1) / (rank before + 1))``.

The mean is over the concept tokens in the vector's top 200 before; rank 0 is the most promoted token of the vocabulary.
0 is unchanged, 1 is a tenfold rank (the quantity that REVS demotes, arXiv 2406.09325). Undefined where none of the
concept's tokens was in the top 200, and for a vector that is zero after, since all tokens tie.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.metrics.vectors._vectors import NEEDS, mean_or_none, vector_measurement
from audit.result import Measured
from audit.vectors.trace import TracedVector

__all__ = ["NEEDS", "TITLE", "measure"]

TITLE = "Concept vectors: fall of the {topic} tokens"


def measure(evidence: Evidence) -> Measured:
    traced = evidence.vectors
    vectors = traced.vectors if traced is not None else ()
    best = {
        "mean_best_rank_before": mean_or_none([float(vector.ranks_before.min()) for vector in vectors]),
        "mean_best_rank_after": mean_or_none([float(vector.ranks_after.min()) for vector in vectors]),
    }
    return vector_measurement(
        evidence,
        score,
        unit="powers of ten of rank",
        direction="forgetting",
        unchanged=0.0,
        details=best,
    )


def score(vector: TracedVector) -> float | None:
    promoted = vector.ranks_before < len(vector.top_before)
    if not promoted.any() or not np.any(vector.after):
        return None
    fall = np.log10((vector.ranks_after[promoted] + 1) / (vector.ranks_before[promoted] + 1))
    return float(fall.mean())
