"""Mean log-probability of the answers to unrelated questions: the collateral of unlearning.

The same number as ``answer_log_probability``, where the concept plays no part. A fall here says that the method
damaged more than it was meant to, and how far a fall on the concept's questions can be believed.
"""

from __future__ import annotations

from audit.metrics.answers._answers import measure_answers
from audit.metrics.answers.answer_log_probability import UNIT, score
from audit.metrics.contract import Subjects
from audit.result import Measurement
from concepts.concept import Concept

TITLE = "Log-probability of unrelated answers"
NEEDS = frozenset({"tokenizer", "model"})


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    return measure_answers(
        subjects,
        "unrelated_log_probability",
        TITLE,
        score,
        unit=UNIT,
        direction="utility",
        kind="unrelated",
        control=None,
    )
