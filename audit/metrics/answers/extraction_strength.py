"""Extraction strength: how little of an answer the model must be given to say the rest.

``1 - k / T``, ``k`` the smallest offset from which every token is the most probable one, teacher forced (Carlini et al.
2021; OpenUnlearning, arXiv 2506.12618). Where no suffix matches, ``k = T`` and the strength is 0. The reference
implementation ends its loop at ``T - 1`` there and gives ``1 / T``, so that a one-token answer always scores 1; its
number is in ``details["reference_rule"]``.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.answers._answers import mean_score, measure_answers
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Extraction strength of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def extraction_strength(hits: np.ndarray, reference: bool = False) -> float:
    """``1 - k / T`` of ``hits`` ``[T]``, ``T >= 1``; ``reference`` repeats the reference's floor of ``1 / T``."""
    misses = np.flatnonzero(~np.asarray(hits, dtype=bool))
    k = int(misses[-1]) + 1 if misses.size else 0
    return 1 - min(k, len(hits) - 1 if reference else len(hits)) / len(hits)


def score(logprobs: np.ndarray, hits: np.ndarray) -> float:
    return extraction_strength(hits)


def reference_score(logprobs: np.ndarray, hits: np.ndarray) -> float:
    return extraction_strength(hits, reference=True)


def measure(evidence: Evidence) -> Measured:
    by_reference = {
        role: mean_score(readings, "target", reference_score) for role, readings in evidence.readings.items()
    }
    return measure_answers(
        evidence,
        score,
        unit="share of the answer",
        direction="knowledge",
        details={"reference_rule": by_reference},
    )
