"""Mean log-probability of the answers to questions close to the concept, which should survive its removal.

The same number as ``answer_log_probability``, for example on the capital of Austria for the concept Italy. Collateral
damage shows here first; the control is unrelated questions. A fall that the control does not share is damage near the
concept: ``details["fall"]`` and ``details["fall_of_unrelated"]`` are the paired falls with their intervals, since
neighbours are few. What makes it wrong: a neighbour whose answer follows from the concept.
"""

from __future__ import annotations

from audit.metrics.answers._answers import control_means, mean_of, measure_answers
from audit.metrics.answers.answer_log_probability import UNIT, score
from audit.metrics.contract import Evidence
from audit.result import Interval, Measured

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


def _fall(evidence: Evidence, kind: str) -> dict[str, float | Interval | None]:
    """Paired fall from base to unlearned over the answers of ``kind``: mean and interval, in nats per token."""
    means = control_means(evidence.readings, kind, score, evidence.seed)
    fall = mean_of(means["base"].scores - means["unlearned"].scores, evidence.seed)
    return {"mean": fall.value, "interval": fall.interval}
