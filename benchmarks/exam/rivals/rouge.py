"""ROUGE-L recall of the greedy continuation, as TOFU reads it (arXiv 2401.06121); over tokens in place of words.

Words are tokens in the tiny world. The continuation is as long as the true answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.exam.models import Item, Network, Subject

TITLE = "ROUGE-L"
NEEDS_REFERENCE = False


def score(subject: Subject) -> float:
    """Mean over the facts, between 0 and 1."""
    said = continued(subject.audited, subject.facts.forget)
    recalls = [
        common(one, item.answer) / len(item.answer) for one, item in zip(said, subject.facts.forget, strict=True)
    ]
    return sum(recalls) / len(recalls)


def continued(network: Network, items: Sequence[Item]) -> list[tuple[int, ...]]:
    """The greedy continuation of each question, as long as its answer."""
    said: list[tuple[int, ...]] = [() for _ in items]
    for place in range(max(len(item.answer) for item in items)):
        open_ = [number for number, item in enumerate(items) if len(item.answer) > place]
        rows = [((*items[number].prompt, *said[number]), (0,)) for number in open_]
        for number, distributions in zip(open_, network.logprobs(rows), strict=True):
            said[number] += (int(distributions[0].argmax()),)
    return said


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common subsequence."""
    lengths = torch.zeros(len(one) + 1, len(other) + 1, dtype=torch.int64)
    for i, first in enumerate(one):
        for j, second in enumerate(other):
            best = max(lengths[i, j + 1].item(), lengths[i + 1, j].item())
            lengths[i + 1, j + 1] = lengths[i, j] + 1 if first == second else best
    return int(lengths[-1, -1])
