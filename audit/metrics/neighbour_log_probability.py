"""Mean log-probability of the answers to questions close to the concept, which should survive its removal.

The same number as ``answer_log_probability``: for Italy the capital of Austria. Damage to what was not meant is found
here first; unrelated questions stand beside. A fall that they do not share is the collateral nearest to the concept.
What makes it wrong: a neighbour whose answer follows from the concept, and so had to go with it.
"""

from __future__ import annotations

from audit.metrics._answers import measure_answers
from audit.metrics.answer_log_probability import UNIT, score
from audit.result import Measurement
from audit.subjects import Subjects
from concepts.concept import Concept

TITLE = "Log-probability of answers close to the concept"
NEEDS = frozenset({"tokenizer", "model", "neighbours"})


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    return measure_answers(
        subjects, "neighbour_log_probability", TITLE, score, unit=UNIT, direction="utility", kind="neighbour"
    )
