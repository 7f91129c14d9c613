"""What do the changed neurons have in common? Words that their changes write far more than the model usually does.

For the change ``d_j`` of a value vector, ``z_jt`` is the z-score of word ``t``'s logit among the vocabulary's. A word's
*excess* is the mean of ``z_jt^2`` over the changed neurons, divided by the same mean over untouched value vectors of
the same layers: how many times more than usual the change writes the word, up or down. Dividing takes out
what any vector writes (word fragments, frequent words). Significance is that of the largest excess: as many of the
model's own vectors, drawn at random, reach it by chance where single vectors happen to write a word strongly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audit.result import Control, Measurement
from concepts.discovery import HeadStatistics, screen
from concepts.tokens import COMMON, Lexicon, background, background_frequency

METRIC = "changed_vocabulary"
TITLE = "Common theme of the changed neurons"
SHORTEST = 3
"""Letters of a word; shorter tokens are mostly fragments and abbreviations."""
SHOWN = 8
"""Words listed of a theme."""
CONTROL_SETS = 199
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Words:
    """Content words of a vocabulary and what writes them: mean head row over a word's forms, ``rows [n, d_model]``."""

    words: tuple[str, ...]
    rows: torch.Tensor
    head: HeadStatistics

    def squared(self, vectors: torch.Tensor) -> torch.Tensor:
        """Squared z-score of every word in every vector: ``vectors [n, d_model]`` -> ``[n, n_words]``."""
        return screen(vectors, self.head, self.rows).square_()


def content_words(lexicon: Lexicon, W_U: torch.Tensor) -> Words:
    """The English words of the vocabulary but for those of grammar, case and spacing variants merged.

    Args:
        W_U: the head, ``[d_vocab, d_model]`` float32.
    """
    forms = {
        word: forms
        for word, forms in lexicon.whole_words.items()
        if len(word) >= SHORTEST and word in background() and background_frequency(word) < COMMON
    }
    rows = torch.empty(len(forms), W_U.shape[1])
    for index, tokens in enumerate(forms.values()):
        rows[index] = W_U[list(tokens)].mean(dim=0)
    shown = tuple(_as_written(lexicon, tokens) for tokens in forms.values())
    return Words(shown, rows, HeadStatistics.from_head(W_U))


def _as_written(lexicon: Lexicon, tokens: Sequence[int]) -> str:
    """The most frequent form that stands alone: a token without a space before it may be a part of other words."""
    texts = [lexicon.texts[token] for token in tokens]
    return next((text for text in texts if text.startswith(" ")), texts[0]).strip()


def find_theme(
    words: Words, changes: torch.Tensor, usual: torch.Tensor, seed: int = 0
) -> tuple[list[str], Measurement]:
    """The words that the changes share beyond chance, strongest first, and the test behind them.

    Args:
        changes: of value vectors, ``[n, d_model]``.
        usual: value vectors of the base from the same layers, ``[n_usual, d_model]``.
    """
    if not words.words:
        return [], absent("the tokenizer has no English word that one token spells")
    n = len(changes)
    usual = usual[usual.isfinite().all(dim=1)]
    if not len(usual):
        return [], absent("no value vector of the base is finite there")
    pooled = words.squared(usual)  # [n_usual, n_words]
    typical = pooled.mean(dim=0).clamp_(min=torch.finfo(torch.float32).tiny)
    excess = words.squared(changes).mean(dim=0) / typical
    drawn = np.random.default_rng(seed).multinomial(n, np.full(len(usual), 1 / len(usual)), size=CONTROL_SETS)
    largest = (torch.from_numpy(drawn).to(torch.float32) @ pooled / n / typical).amax(dim=1)  # [CONTROL_SETS]
    strongest = float(excess.max())
    if not math.isfinite(strongest):
        return [], absent("the base's head holds values that are not finite")
    p_value = (1 + int((largest >= strongest).sum())) / (1 + CONTROL_SETS)
    threshold = float(torch.quantile(largest, 1 - SIGNIFICANT))
    order = excess.argsort(descending=True, stable=True)[:SHOWN].tolist()
    found = [words.words[at] for at in order if p_value < SIGNIFICANT and float(excess[at]) > threshold]
    return found, Measurement(
        metric=METRIC,
        title=TITLE,
        value=strongest,
        base=1.0,
        unit="times as much as value vectors usually write the word",
        n=n,
        p_value=p_value,
        control=Control(name=f"{n} value vectors of the base, same layers", value=float(largest.mean())),
        items=[
            {"word": words.words[at], "excess": float(excess[at]), "in the theme": words.words[at] in found}
            for at in order
        ],
        details={
            "null": f"{CONTROL_SETS} sets of {n} value vectors of the same layers, largest excess of any word",
            "theme": ", ".join(found) if found else "no theme stands out",
            "words": f"{len(words.words)} English words, those of grammar left out",
            "excess_of_the_theme_at_least": threshold,
        },
    )


def absent(reason: str) -> Measurement:
    return Measurement(metric=METRIC, title=TITLE, not_measured=reason)
