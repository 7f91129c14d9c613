"""Exact memorisation: the share of an answer's tokens that are the most probable ones, teacher forced.

As in OpenUnlearning (arXiv 2506.12618). It is not a generation metric: every token is judged after the true ones before
it. Mean over items.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.answers._answers import measure_answers
from audit.metrics.contract import Subjects
from audit.result import Measurement
from concepts.concept import Concept

TITLE = "Exact memorisation of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def score(logprobs: np.ndarray, hits: np.ndarray) -> float:
    """The share of ``hits`` ``[n_tokens]``."""
    return float(hits.mean())


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    return measure_answers(
        subjects, "exact_memorisation", TITLE, score, unit="share of answer tokens", direction="knowledge"
    )
