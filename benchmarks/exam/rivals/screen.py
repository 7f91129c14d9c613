"""The screen on held-out wordings (arXiv 2607.19442): is a fact as probable as one that was never taught?

Log-probability of the answers after wordings that were never trained, against the base's level for facts that were
never taught. A rank test rejects *as never taught* on either side; two one-sided tests (TOST) within a margin accept
it; where neither decides the screen abstains. The margin is the spread between models that never knew, from other
seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.exam.models import Subject

TITLE = "held-out screen"
NEEDS_REFERENCE = False
LEVEL = 0.01


@dataclass(frozen=True)
class Screened:
    """The audited model against what was never taught, in nats.

    Attributes:
        difference, error: of the means, and its standard error.
        p_value: of the two-sided rank test.
    """

    difference: float
    error: float
    p_value: float

    def decision(self, margin: float) -> str:
        """``different``, ``equivalent`` (by TOST, at 5 %), or ``abstains``."""
        if self.p_value < LEVEL:
            return "different"
        return "equivalent" if abs(self.difference) + 1.645 * self.error < margin else "abstains"


def score(subject: Subject) -> float:
    """Distance from what was never taught, in standard errors: less likely than that counts like more likely."""
    result = screened(subject)
    return abs(result.difference) / result.error


def screened(subject: Subject) -> Screened:
    """The three numbers of the screen."""
    from scipy.stats import mannwhitneyu

    asked = subject.audited.answer_means([(item.held_out, item.answer) for item in subject.facts.forget]).numpy()
    level = subject.base.answer_means([(item.held_out, item.answer) for item in subject.facts.unknown]).numpy()
    error = float(np.sqrt(asked.var(ddof=1) / len(asked) + level.var(ddof=1) / len(level)))
    return Screened(float(asked.mean() - level.mean()), error, float(mannwhitneyu(asked, level).pvalue))
