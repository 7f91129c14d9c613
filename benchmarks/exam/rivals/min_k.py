"""Min-K% membership inference (arXiv 2310.16789): AUC of the facts to forget against facts that were never taught.

The score of a text is the mean log-probability of its 40 % least probable tokens, at least one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.exam.grades import auc
from benchmarks.exam.models import Item, Network, Subject, asked

TITLE = "Min-K%"
NEEDS_REFERENCE = False
SHARE = 0.4


def score(subject: Subject) -> float:
    """The AUC: 1 if every fact is more probable than any that was never taught."""
    return auc(*(_scores(subject.audited, items) for items in (subject.facts.forget, subject.facts.unknown)))


def _scores(network: Network, items: Sequence[Item]) -> list[float]:
    rows = network.token_logprobs(asked(items))
    return [float(torch.topk(row, max(1, int(SHARE * len(row))), largest=False).values.mean()) for row in rows]
