"""Cosine of each concept vector before and after (Hong et al. 2024, section 5).

1 is an unchanged direction. Fine-tuning of the whole model at a learning rate of 1e-5 hardly turns any single vector:
gradient-based unlearning gives a value near 1, to be compared with the control. A vector that is zero after has no
direction and scores 0.
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
"""Half the spacing of numbers at 1 in each format: the relative change of an entry by rounding alone."""


def measure(evidence: Evidence) -> Measured:
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
