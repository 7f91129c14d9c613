"""Mean log-probability of an answer's tokens, teacher forced, whether or not the model would generate the answer.

Per item ``mean_t ln p(y_t | x, y_<t)`` over the answer's own tokens (no end token is appended), then the mean over
items. ``exp`` of it is the "probability" of TOFU (arXiv 2401.06121), which hides large differences near 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from audit.metrics.answers._answers import measure_answers
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Log-probability of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})
UNIT = "nats per answer token"


def score(logprobs: Float[np.ndarray, " n_tokens"], hits: Bool[np.ndarray, " n_tokens"]) -> float:
    return float(logprobs.mean())


def measure(evidence: Evidence) -> Measured:
    return measure_answers(evidence, score, unit=UNIT, direction="knowledge")
