"""The answer in the logit lens: at which rank each layer has the token that tells it apart from other answers.

An attacker with a budget takes the most likely tokens of several layers as candidates (Patil et al. 2023, arXiv
2309.17410, head projection); the attack succeeds if the answer is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.lenses.logit_lens import all_logits
from audit.models.loading import RunningModel
from audit.patching.items import PatchItem
from audit.patching.runs import States

BUDGETS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Candidates that are taken from each layer."""
LAYERS: Final = 10
"""Layers that candidates are taken from, evenly spaced; the paper's default number."""


@dataclass(frozen=True)
class LensReadings:
    """One model's states read through one head.

    Attributes:
        probability: of the token that tells the answer apart, after each block.
        rank: its rank in the vocabulary, 0 for the most likely token.
        wrong_rank: for each question the ranks of the tokens of other answers of its type.
        candidates: number of different tokens among the most likely ones of the chosen layers, for each budget.
        d_vocab: size of the vocabulary.
    """

    probability: Float[np.ndarray, "n_layers n"]
    rank: Int[np.ndarray, "n_layers n"]
    wrong_rank: tuple[Int[np.ndarray, "n_layers _"], ...]
    candidates: Int[np.ndarray, "n_budgets n"]
    d_vocab: int

    def found(self, budget: int) -> Float[np.ndarray, " n"]:
        """Whether the answer is among the candidates, for ``BUDGETS[budget]`` from each layer (1 or 0)."""
        return self._among(self.rank, budget).astype(np.float64)

    def found_wrong(self, budget: int) -> Float[np.ndarray, " n"]:
        """The share of other answers of the type that are among the candidates; NaN if there is none."""
        return np.array([self._among(ranks, budget).mean() if ranks.size else np.nan for ranks in self.wrong_rank])

    def _among(self, rank: np.ndarray, budget: int) -> np.ndarray:
        among: np.ndarray = rank[layers_read(len(rank))].min(axis=0) < BUDGETS[budget]
        return among


def layers_read(n_layers: int) -> list[int]:
    """At most ``LAYERS`` layers, evenly spaced, the last one included."""
    return sorted({round(layer) for layer in np.linspace(n_layers - 1, 0, min(LAYERS, n_layers))})


def read_lens(model: RunningModel, items: Sequence[PatchItem], states: Sequence[Tensor]) -> LensReadings:
    """The states of any version of the model, read through ``model``'s final norm and head.

    Args:
        states: of each item, as in ``States``.
    """
    probability, rank, wrong, candidates = [], [], [], []
    for item, state in zip(items, states, strict=True):
        logits = all_logits(model, state[:, item.apart])
        tokens = torch.tensor([item.answer_ids[item.apart], *item.wrong_ids])
        chosen = logits[:, tokens]
        ranks = (logits[:, None] > chosen[..., None]).sum(-1).numpy()
        probability.append((chosen[:, 0] - logits.logsumexp(-1)).exp().double().numpy())
        rank.append(ranks[:, 0])
        wrong.append(ranks[:, 1:])
        top = logits[layers_read(len(logits))].topk(min(BUDGETS[-1], logits.shape[-1])).indices
        candidates.append([len(set(top[:, :budget].flatten().tolist())) for budget in BUDGETS])
    return LensReadings(
        np.stack(probability, axis=1), np.stack(rank, axis=1), tuple(wrong), np.array(candidates).T, logits.shape[-1]
    )


def in_item_order(batches: Sequence[Sequence[int]], states: Sequence[States]) -> list[Tensor]:
    """The states of all items from those of each batch."""
    by_item = {
        index: state
        for batch, given in zip(batches, states, strict=True)
        for index, state in zip(batch, given, strict=True)
    }
    return [by_item[index] for index in sorted(by_item)]
