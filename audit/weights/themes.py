"""What do the changed neurons have in common? Words that their changes write far more than the model usually does.

For the change ``d_j`` of a value vector, ``z_jt`` is the z-score of word ``t``'s logit among the vocabulary's. A word's
*excess* is the mean of ``z_jt^2`` over the changed neurons, divided by the same mean over value vectors of the base in
the same layers: how many times more than usual the change writes the word, up or down. The division removes what any
vector writes (word fragments, frequent words). The test statistic is the largest excess. Its null distribution comes
from equally many random value vectors of the base, some of which write single words strongly by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.result import Control, Measured, not_measured
from concepts.discovery import HeadStatistics, screen
from concepts.tokens import COMMON, Lexicon, background, background_frequency

METRIC = "changed_vocabulary"
TITLE = "Common theme of the changed neurons"
SHORTEST_WORD = 3
"""Letters of a word; shorter tokens are mostly fragments and abbreviations."""
LISTED_WORDS = 8
CONTROL_SETS = 199
"""Random sets of value vectors behind the null distribution; the smallest possible p-value is 1 / 200."""
THEME_SIGNIFICANCE = 0.05
"""Level of the test of the largest excess, and the quantile of the null that each word of a theme exceeds."""


@dataclass(frozen=True)
class ContentWords:
    """Content words of a vocabulary; ``rows`` has, for each word, the mean head row over its forms."""

    words: tuple[str, ...]
    rows: Float[Tensor, "n_words d_model"]
    head: HeadStatistics

    def squared_scores(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n n_words"]:
        """Squared z-score of every word's logit in every vector."""
        return screen(vectors, self.head, self.rows).square_()


def content_words(lexicon: Lexicon, W_U: Float[Tensor, "d_vocab d_model"]) -> ContentWords:
    """The English words of the vocabulary without function words; variants in case and spacing are merged.

    Args:
        W_U: the head, float32.
    """
    forms = {
        word: forms
        for word, forms in lexicon.whole_words.items()
        if len(word) >= SHORTEST_WORD and word in background() and background_frequency(word) < COMMON
    }
    rows = torch.empty(len(forms), W_U.shape[1])
    for index, tokens in enumerate(forms.values()):
        rows[index] = W_U[list(tokens)].mean(dim=0)
    shown = tuple(_as_written(lexicon, tokens) for tokens in forms.values())
    return ContentWords(shown, rows, HeadStatistics.from_head(W_U))


def _as_written(lexicon: Lexicon, tokens: Sequence[int]) -> str:
    """The most frequent form with a space before it; a token without one may be a part of other words."""
    texts = [lexicon.texts[token] for token in tokens]
    return next((text for text in texts if text.startswith(" ")), texts[0]).strip()


@dataclass(frozen=True)
class Excess:
    """The excess of every word, and the largest excess under the null.

    Attributes:
        null: the largest excess of any word in each control set.
    """

    of_words: Float[Tensor, " n_words"]
    null: Float[Tensor, " n_sets"]

    @property
    def largest(self) -> float:
        return float(self.of_words.max())

    @property
    def p_value(self) -> float:
        return (1 + int((self.null >= self.largest).sum())) / (1 + CONTROL_SETS)

    @property
    def threshold(self) -> float:
        """What the excess of each word of a theme is above."""
        return float(torch.quantile(self.null, 1 - THEME_SIGNIFICANCE))


def word_excess(
    words: ContentWords, changes: Float[Tensor, "n d_model"], typical: Float[Tensor, "n_typical d_model"], seed: int
) -> Excess:
    """The excess in ``changes``, and in ``CONTROL_SETS`` sets of as many vectors drawn from ``typical``."""
    n, n_typical = len(changes), len(typical)
    squares = words.squared_scores(typical)  # [n_typical, n_words]
    expected = squares.mean(dim=0).clamp_(min=torch.finfo(torch.float32).tiny)
    excess = words.squared_scores(changes).mean(dim=0) / expected
    draws = np.random.default_rng(seed).multinomial(n, np.full(n_typical, 1 / n_typical), size=CONTROL_SETS)
    null = (torch.from_numpy(draws).to(torch.float32) @ squares / n / expected).amax(dim=1)  # [CONTROL_SETS]
    return Excess(excess, null)


def find_theme(
    words: ContentWords, changes: Float[Tensor, "n d_model"], typical: Float[Tensor, "n_typical d_model"], seed: int = 0
) -> tuple[list[str], Measured]:
    """The words that the changes share beyond chance, strongest first, and the test behind them.

    Args:
        changes: of value vectors.
        typical: value vectors of the base from the same layers.
    """
    if not words.words:
        return [], not_measured("the tokenizer has no English word that one token spells")
    typical = typical[typical.isfinite().all(dim=1)]
    if not len(typical):
        return [], not_measured("no value vector of the base is finite there")
    excess = word_excess(words, changes, typical, seed)
    if not math.isfinite(excess.largest):
        return [], not_measured("the base's head contains values that are not finite")
    order = excess.of_words.argsort(descending=True, stable=True)[:LISTED_WORDS].tolist()
    strongest = [(words.words[at], float(excess.of_words[at])) for at in order]
    significant = excess.p_value < THEME_SIGNIFICANCE
    theme = [word for word, value in strongest if significant and value > excess.threshold]
    return theme, _measurement(excess, strongest, theme, len(changes), len(words.words))


def _measurement(
    excess: Excess, strongest: Sequence[tuple[str, float]], theme: Sequence[str], n: int, n_words: int
) -> Measured:
    return Measured(
        value=excess.largest,
        base=1.0,
        unit="times as much as value vectors usually write the word",
        n=n,
        p_value=excess.p_value,
        null=f"{CONTROL_SETS} sets of {n} value vectors of the same layers, largest excess of any word",
        control=Control(name=f"{n} value vectors of the base, same layers", value=float(excess.null.mean())),
        items=[{"word": word, "excess": value, "in the theme": word in theme} for word, value in strongest],
        details={
            "theme": ", ".join(theme) if theme else "no theme stands out",
            "words": f"{n_words} English words, without function words",
            "excess_of_the_theme_at_least": excess.threshold,
        },
    )
