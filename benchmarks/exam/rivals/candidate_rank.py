"""Rank of the true answer among the other answers of its type (after arXiv 2505.23270), on both sides.

Read at the first token. A model that never knew gives uniform ranks; the score is the Kolmogorov distance from them, so
answers that are avoided count like answers that are preferred.
"""

from __future__ import annotations

import numpy as np

from benchmarks.exam.models import Subject

TITLE = "candidate rank"
NEEDS_REFERENCE = False


def score(subject: Subject) -> float:
    """The distance, between 0 and 1."""
    from scipy.stats import kstest

    items = subject.facts.forget
    ranks = []
    rows = subject.audited.logprobs([(item.prompt, item.answer[:1]) for item in items])
    for item, distributions in zip(items, rows, strict=True):
        others = sorted({other[0] for other in item.others} - {item.answer[0]})
        above = (distributions[0, others] > distributions[0, item.answer[0]]).sum()
        ranks.append((float(above) + 0.5) / (len(others) + 1))
    return float(kstest(np.array(ranks), "uniform").statistic)
