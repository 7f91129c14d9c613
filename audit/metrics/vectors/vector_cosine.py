"""Cosine of each concept vector before and after (Hong et al. 2024, section 5).

1 is an unchanged direction. Whole-model fine-tuning at 1e-5 barely turns any single vector, so a value near 1 is what
gradient unlearning gives, and means little without the controls beside it. A zeroed vector has no direction: it counts
as 0, since nothing of the old one is left.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.metrics.vectors._vectors import NEEDS, cosine, vector_measurement
from audit.result import Measured
from audit.vectors.trace import TracedVector

__all__ = ["NEEDS", "TITLE", "measure"]

TITLE = "Concept vectors: cosine before and after"
ROUNDING = {"float32": 6e-8, "float16": 4.9e-4, "bfloat16": 3.9e-3}
"""Half the spacing of numbers at 1 in each format: what rounding alone moves an entry, relative to its size."""


def measure(evidence: Evidence) -> Measured:
    """Mean cosine over the concept's vectors."""
    traced = evidence.vectors
    dtype = traced.dtype if traced is not None else ""
    return vector_measurement(
        evidence,
        score,
        unit="cosine",
        direction="knowledge",
        unchanged=1.0,
        details={"dtype": dtype, "relative_rounding_of_an_entry": ROUNDING.get(dtype)},
    )


def score(vector: TracedVector) -> float | None:
    if np.any(vector.before) and not np.any(vector.after):
        return 0.0
    return cosine(vector.before, vector.after)
