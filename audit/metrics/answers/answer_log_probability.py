"""Mean log-probability of an answer's tokens, teacher forced: what the model would give the answer, said or not.

Per item ``mean_t ln p(y_t | x, y_<t)`` over the answer's own tokens (no end token is appended), then the mean over
items. ``exp`` of it is the "probability" of TOFU (arXiv 2401.06121), which hides large differences near 0.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.answers._answers import measure_answers
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Log-probability of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})
UNIT = "nats per answer token"


def score(logprobs: np.ndarray, hits: np.ndarray) -> float:
    """The mean of ``logprobs`` ``[n_tokens]``."""
    return float(logprobs.mean())


def measure(evidence: Evidence) -> Measured:
    return measure_answers(evidence, score, unit=UNIT, direction="knowledge")
