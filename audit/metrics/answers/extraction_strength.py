"""Extraction strength: how short a prefix of the answer is enough for the model to complete it.

``1 - k / T``, where ``k`` is the smallest offset from which every token is the most probable one, teacher forced
(Carlini et al. 2021; OpenUnlearning, arXiv 2506.12618). Where no suffix matches, ``k = T`` and the strength is 0. The
reference implementation ends its loop at ``T - 1`` and gives ``1 / T`` there, so that a one-token answer always scores
1; its number is in ``details["reference_rule"]``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from audit.metrics.answers._answers import mean_score, measure_answers
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Extraction strength of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def extraction_strength(hits: Bool[np.ndarray, " n_tokens"], reference: bool = False) -> float:
    """``1 - k / T`` of the ``T >= 1`` tokens; ``reference`` applies the reference's floor of ``1 / T``."""
    misses = np.flatnonzero(~hits)
    k = int(misses[-1]) + 1 if misses.size else 0
    return 1 - min(k, len(hits) - 1 if reference else len(hits)) / len(hits)


def score(logprobs: Float[np.ndarray, " n_tokens"], hits: Bool[np.ndarray, " n_tokens"]) -> float:
    return extraction_strength(hits)


def reference_score(logprobs: Float[np.ndarray, " n_tokens"], hits: Bool[np.ndarray, " n_tokens"]) -> float:
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
