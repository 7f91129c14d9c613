"""Mean log-probability of the answers to questions close to the concept, which should survive its removal.

The same number as ``answer_log_probability``: for Italy the capital of Austria. Damage to what was not meant is found
here first; unrelated questions stand beside. A fall that they do not share is the collateral nearest to the concept;
``details["fall"]`` and ``details["fall_of_unrelated"]`` have both, question by question, since neighbours are few.
What makes it wrong: a neighbour whose answer follows from the concept, and so had to go with it.
"""

from __future__ import annotations

from typing import Any

from audit.metrics.answers._answers import control_means, mean_of, measure_answers
from audit.metrics.answers.answer_log_probability import UNIT, score
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Log-probability of neighbouring answers"
NEEDS = frozenset({"tokenizer", "model", "neighbours"})


def measure(evidence: Evidence) -> Measured:
    return measure_answers(
        evidence,
        score,
        unit=UNIT,
        direction="utility",
        kind="neighbour",
        details={"fall": _fall(evidence, "neighbour"), "fall_of_unrelated": _fall(evidence, "unrelated")},
    )


def _fall(evidence: Evidence, kind: str) -> dict[str, Any]:
    """How far the answers fell, question by question: mean and interval, in nats per token."""
    means = control_means(evidence.readings, kind, score, evidence.seed)
    fell = mean_of(means["base"].scores - means["unlearned"].scores, evidence.seed)
    return {"mean": fell.value, "interval": fell.interval}
