"""Share of the questions whose answer is the greedy continuation."""

from __future__ import annotations

from benchmarks.exam.models import Subject, asked

TITLE = "accuracy"
NEEDS_REFERENCE = False


def score(subject: Subject) -> float:
    """Between 0 and 1."""
    hits = subject.audited.hits(asked(subject.facts.forget))
    return sum(bool(each.all()) for each in hits) / len(hits)
