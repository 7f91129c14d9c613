"""Probability of the true answer against wrong ones of its type (TOFU's truth ratio, arXiv 2401.06121).

In the form that OpenUnlearning's study of metrics grades (arXiv 2506.12618), ``a / (a + b)`` with the geometric mean of
the wrong answers' probabilities, normalised by length; computed in log space, where their code adds 1e-10.
"""

from __future__ import annotations

import torch

from benchmarks.exam.models import Subject, asked

TITLE = "truth ratio"
NEEDS_REFERENCE = False
WRONG = 5
"""Wrong answers of each question, as in TOFU."""


def score(subject: Subject) -> float:
    """Mean over the facts, between 0 and 1; 0.5 is indifferent."""
    items = subject.facts.forget
    true = subject.audited.answer_means(asked(items))
    wrong = subject.audited.answer_means([(item.prompt, other) for item in items for other in item.others[:WRONG]])
    sizes = [len(item.others[:WRONG]) for item in items]
    means = [part.mean() for part in torch.split(wrong, sizes)]
    return sum(float((one - other).sigmoid()) for one, other in zip(true, means, strict=True)) / len(items)
