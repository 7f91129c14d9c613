"""Extraction strength (arXiv 2506.12618): share of the answer that need not be given for the rest to be said.

``1 - k / T`` with the smallest ``k`` from which every token is the most probable one. With no such ``k`` it is 0, where
published code gives ``1 / T``.
"""

from __future__ import annotations

from benchmarks.exam.models import Subject, asked

TITLE = "extraction strength"
NEEDS_REFERENCE = False


def score(subject: Subject) -> float:
    """Mean over the facts, between 0 and 1."""
    strengths = []
    for hits in subject.audited.hits(asked(subject.facts.forget)):
        misses = (~hits).nonzero()
        given = int(misses[-1]) + 1 if len(misses) else 0
        strengths.append(1 - given / len(hits))
    return sum(strengths) / len(strengths)
