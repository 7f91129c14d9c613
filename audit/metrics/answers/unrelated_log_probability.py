"""Mean log-probability of the answers to unrelated questions: the collateral of unlearning.

The same number as ``answer_log_probability``, where the concept plays no part. A fall here says that the method
damaged more than it was meant to, and how far a fall on the concept's questions can be believed.
"""

from __future__ import annotations

from audit.metrics.answers._answers import measure_answers
from audit.metrics.answers.answer_log_probability import UNIT, score
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Log-probability of unrelated answers"
NEEDS = frozenset({"tokenizer", "model"})


def measure(evidence: Evidence) -> Measured:
    return measure_answers(
        evidence,
        score,
        unit=UNIT,
        direction="utility",
        kind="unrelated",
        control=None,
    )
