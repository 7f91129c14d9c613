"""Exact memorisation: the share of an answer's tokens that are the most probable ones, teacher forced.

As in OpenUnlearning (arXiv 2506.12618). Mean over items. It does not judge generated text: each token is predicted from
the true tokens before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from audit.metrics.answers._answers import mean_score, measure_answers
from audit.metrics.contract import Evidence
from audit.questions.kinds import kinds
from audit.questions.readings import Readings
from audit.result import Measured

TITLE = "Exact memorisation of the answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def score(logprobs: Float[np.ndarray, " n_tokens"], hits: Bool[np.ndarray, " n_tokens"]) -> float:
    return float(hits.mean())


def measure(evidence: Evidence) -> Measured:
    return measure_answers(
        evidence,
        score,
        unit="share of answer tokens",
        direction="knowledge",
        details={"by_kind": by_kind(evidence.readings)},
    )


def by_kind(readings: Mapping[str, Readings]) -> dict[str, dict[str, float | int | None]]:
    """Kind of question -> number of answers and the mean score in each model, for every kind that is scored."""
    rows = {}
    for name, kind in kinds().items():
        n = len(readings["base"].of(name))
        if "scored" in kind.READS and n:
            means = {role: mean_score(model, name, score) for role, model in readings.items()}
            rows[name] = {"n": n, **means}
    return rows
