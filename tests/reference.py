"""ConceptVectors' own numbers (Hong et al. 2024, arXiv 2406.11614), for a reader who must compare with its tables.

The audit's metrics (``vector_cosine``, ``vector_l2``, ``vector_jaccard``, ``bleu``, ``rouge_l``) differ from the
published script where that was at fault; here its rules are kept as they are:

* vectors: no controls, the positive side of the projection alone, cosine cut at 1, a zero vector's cosine 0;
* Jaccard: the top 200 tokens of the vector before through the base's head and after through the unlearned model's;
* BLEU: the unlearned answer stands as the reference and the base's as the candidate, smoothing method 3, white space;
* texts: the last 100 positions of each row, so the end of a prompt is scored where the model stopped early.

ROUGE is not remade. The script used the package ``rouge``, which splits sentences at every full stop and takes them in
any order, keeps case and punctuation, and counts a word that comes twice once; ``rouge_score`` (here) reads lower-case
words in sequence. Both agree on texts of one sentence without capitals, punctuation or repeated words; two sentences
that changed places get 1.0 from the one and 0.5 from the other. The script's 0.0 for whatever raised an exception (an
empty answer) has no counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from concepts.similarity import bleu

TOP = 200
"""Tokens compared by Jaccard."""
LAST = 100
"""Positions of each row that the script decodes: as many as it lets a model write."""


@dataclass(frozen=True)
class VectorScores:
    """One value vector before and after, by the script's rules."""

    cosine: float
    l2: float
    jaccard: float


def vector_scores(
    before: Float[Tensor, " d_model"],
    after: Float[Tensor, " d_model"],
    head: Float[Tensor, "d_vocab d_model"],
    head_after: Float[Tensor, "d_vocab d_model"] | None = None,
) -> VectorScores:
    """Cosine, L2 distance and Jaccard of one vector; ``head_after`` where the unlearned model's head is another."""
    one, other = before.float(), after.float()
    return VectorScores(
        cosine=min(torch.nn.functional.cosine_similarity(one, other, dim=-1).item(), 1.0),
        l2=torch.linalg.vector_norm(one - other).item(),
        jaccard=jaccard(top_tokens(one, head), top_tokens(other, head if head_after is None else head_after)),
    )


def top_tokens(vector: Float[Tensor, " d_model"], head: Float[Tensor, "d_vocab d_model"]) -> set[int]:
    """Ids of the ``TOP`` tokens that ``vector`` raises most; its negative side is not looked at."""
    return set((head.float() @ vector).topk(min(TOP, len(head))).indices.tolist())


def jaccard(one: set[int], other: set[int]) -> float:
    """Size of the intersection over that of the union."""
    return len(one & other) / len(one | other)


def bleu_scores(base: Sequence[str], unlearned: Sequence[str]) -> list[float]:
    """BLEU of each pair of answers with the roles that the script gives them."""
    return [bleu(reference=new, hypothesis=old) for old, new in zip(base, unlearned, strict=True)]


def decoded(prompt: Sequence[int], written: Sequence[int], pad: int) -> list[int]:
    """The token ids that the script decodes of one row: its last ``LAST`` positions, padded on the left.

    Where fewer are written, the end of the prompt comes with them.

    Args:
        pad: id that fills a row shorter than that.
    """
    row = [*prompt, *written][-LAST:]
    return [pad] * (LAST - len(row)) + row
