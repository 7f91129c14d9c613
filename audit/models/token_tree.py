"""Several token sequences in one row, as a tree: a common beginning is stored, and run through the model, once.

Twenty few-shot questions share all their examples, so a row of them costs a third of twenty padded rows. Each token
attends to its ancestors alone and keeps the position that it has in its own sequence, so a model's outputs and
gradients are those of the sequences one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenTree:
    """One row of ``n`` tokens that holds some sequences; parents come before their children.

    Attributes:
        positions: of each token in its own sequence.
        mask: 0 where a token may look and -inf elsewhere.
        paths: for each sequence, the places of its tokens in the row, in order.
    """

    ids: Int[Tensor, "1 n"]
    positions: Int[Tensor, "1 n"]
    mask: Float[Tensor, "1 1 n n"]
    paths: tuple[Int[Tensor, " _"], ...]


def token_tree(sequences: Iterable[Sequence[int]]) -> TokenTree:
    """The tree of ``sequences``; equal sequences share all their tokens."""
    nodes: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    ids: list[int] = []
    positions: list[int] = []
    paths = []
    for sequence in sequences:
        parent, path = -1, []
        for depth, token in enumerate(sequence):
            node = nodes.setdefault((parent, token), len(ids))
            if node == len(ids):
                parents.append(parent)
                ids.append(token)
                positions.append(depth)
            path.append(node)
            parent = node
        paths.append(torch.tensor(path, dtype=torch.long))
    return TokenTree(torch.tensor([ids]), torch.tensor([positions]), _ancestors(parents), tuple(paths))


def _ancestors(parents: Sequence[int]) -> Float[Tensor, "1 1 n n"]:
    """0 where column is an ancestor of row or the row itself, -inf elsewhere; parents come before children."""
    visible = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)[None, None]
