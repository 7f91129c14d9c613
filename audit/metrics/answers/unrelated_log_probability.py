"""Mean log-probability of the answers to unrelated questions: the collateral damage of unlearning.

The same number as ``answer_log_probability``, on questions in which the concept plays no part. A fall shows damage
beyond the concept; a fall of the same size on the concept's questions is then no evidence about the concept.
"""

from __future__ import annotations

from audit.metrics.answers._answers import measure_answers
from audit.metrics.answers.answer_log_probability import UNIT, score
from audit.metrics.contract import Evidence
from audit.result import Measured

TITLE = "Log-probability of unrelated answers"
NEEDS = frozenset({"tokenizer", "model"})


def measure(evidence: Evidence) -> Measured:
    return measure_answers(evidence, score, unit=UNIT, direction="utility", kind="unrelated", control=None)
