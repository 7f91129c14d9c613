"""What do the changed neurons have in common? Words that their changes write far more than the model usually does.

For the change ``d_j`` of a value vector, ``z_jt`` is the z-score of word ``t``'s logit among the vocabulary's. A word's
*excess* is the mean of ``z_jt^2`` over the changed neurons, divided by its mean under a null hypothesis: how many times
more than under that hypothesis the change writes the word, up or down. The test statistic is the largest excess. Two
null hypotheses must be rejected:

- *usual*: The changes write words as equally many random value vectors of the same layers do, some of which write
  single words strongly by chance.
- *rotated*: The update has its directions by chance. All changes are rotated together by one random (Haar) rotation of
  the residual stream, in coordinates in which the head's rows are white (``v -> L' v`` with ``L L'`` their covariance;
  there ``z_jt`` is a product with a unit vector). That replaces the directions that the update writes, its right
  singular vectors, and keeps how many there are and how the changes are distributed over them (``Update.shares``): any
  update of low rank writes some words far more than many independent vectors do, because all its vectors point the same
  few ways.

An update along a few value vectors of the base has the words of these vectors as its theme: it does write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.result import Cell, Control, Measured, not_measured
from concepts.discovery import HeadStatistics, screen
from concepts.tokens import COMMON, Lexicon, background, background_frequency

METRIC = "changed_vocabulary"
TITLE = "Common theme of the changed neurons"
SHORTEST_WORD = 3
"""Letters of a word; shorter tokens are mostly fragments and abbreviations."""
LISTED_WORDS = 8
DRAWS = 99
"""Draws under each null hypothesis; the smallest possible p-value is 1 / 100."""
ROTATED = 16
"""Directions of the update that are rotated exactly, those that most of it lies along. What all others together add to
a word is drawn from the gamma distribution with the mean and variance of that sum, independently for each word."""
ROTATIONS_AT_ONCE = 8
RANK = 1e-6
"""Share of a direction, relative to the largest, below which it is rounding."""
THEME_SIGNIFICANCE = 0.05
"""Level of the tests of the largest excess, and the quantile of both nulls that each word of a theme exceeds."""


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
    """The excess of every word over the mean of one null hypothesis, and the largest excess in each draw under it."""

    of_words: Float[Tensor, " n_words"]
    null: Float[Tensor, " n_draws"]

    @property
    def largest(self) -> float:
        return float(self.of_words.max())

    @property
    def p_value(self) -> float:
        return (1 + int((self.null >= self.largest).sum())) / (1 + len(self.null))

    @property
    def threshold(self) -> float:
        """What the excess of each word of a theme is above."""
        return float(torch.quantile(self.null, 1 - THEME_SIGNIFICANCE))


@dataclass(frozen=True)
class Update:
    """Changes of value vectors, in coordinates in which the head's rows are white.

    Attributes:
        n: number of changes.
        squares: mean of every word's squared z-score over the changes.
        shares: of the changes' squared lengths, after scaling each to 1, along each singular direction, largest first.
        root: lower Cholesky factor of the covariance of the head's rows, float64.
    """

    words: ContentWords
    n: int
    squares: Float[Tensor, " n_words"]
    shares: Float[Tensor, " rank"]
    root: Float[Tensor, "d_model d_model"]

    @classmethod
    def of(cls, words: ContentWords, changes: Float[Tensor, "n d_model"]) -> Update:
        covariance = words.head.covariance.double()
        jitter = torch.finfo(torch.float32).eps * covariance.trace()  # a head of few rows has no full rank
        root = torch.linalg.cholesky(covariance + jitter * torch.eye(len(covariance)))
        white = torch.nn.functional.normalize(changes.double() @ root, dim=1)
        shares = torch.linalg.svdvals(white).square() / len(changes)
        squares = words.squared_scores(changes).mean(dim=0)
        return cls(words, len(changes), squares, shares[shares > RANK * shares[0]].float(), root)


def usual_excess(update: Update, typical: Float[Tensor, "n_typical d_model"], seed: int) -> Excess:
    """The excess over value vectors of the base.

    Args:
        typical: value vectors of the base from the same layers.
    """
    squares = update.words.squared_scores(typical)  # [n_typical, n_words]
    mean = squares.mean(dim=0).clamp_(min=torch.finfo(torch.float32).tiny)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(update.n, np.full(len(typical), 1 / len(typical)), size=DRAWS)
    null = torch.from_numpy(drawn).float() @ squares / update.n / mean  # [DRAWS, n_words]
    return Excess(update.squares / mean, null.amax(dim=1))


def rotated_excess(update: Update, seed: int) -> Excess:
    """The excess over the update after a random rotation."""
    words, root, shares = update.words, update.root, update.shares
    centred = words.rows - words.head.mean
    white = torch.linalg.solve_triangular(root.float(), centred.T, upper=False)  # [d_model, n_words]
    mean = white.square().sum(dim=0) / len(root)
    exact, rest = shares[:ROTATED], shares[ROTATED:]
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    null = []
    for start in range(0, DRAWS, ROTATIONS_AT_ONCE):
        n = min(ROTATIONS_AT_ONCE, DRAWS - start)
        frames = torch.linalg.qr(torch.randn(n, len(root), len(exact), generator=generator)).Q
        squares = torch.einsum("dt,ndk->ntk", white, frames).square_() @ exact / mean  # [n, n_words]
        if rest.any():
            shape = float(rest.sum().square() / (2 * rest.square().sum()))
            drawn = rng.standard_gamma(shape, size=tuple(squares.shape)) / shape
            squares += rest.sum() * torch.from_numpy(drawn).float()
        null.append(squares.amax(dim=1))
    return Excess(update.squares / mean, torch.cat(null))


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
    if not words.head.covariance.isfinite().all():
        return [], not_measured("the base's head contains values that are not finite")
    if not (changes != 0).any(dim=1).all() or not changes.isfinite().all():
        return [], not_measured("a change is 0 or not finite")
    update = Update.of(words, changes)
    tests = usual, rotated = usual_excess(update, typical, seed), rotated_excess(update, seed)
    significant = all(test.p_value < THEME_SIGNIFICANCE for test in tests)
    strongest = usual.of_words.argsort(descending=True, stable=True)[:LISTED_WORDS].tolist()
    theme = [at for at in strongest if significant and all(test.of_words[at] > test.threshold for test in tests)]
    rows: list[dict[str, Cell]] = [
        {
            "word": words.words[at],
            "excess": float(usual.of_words[at]),
            "excess over rotated changes": float(rotated.of_words[at]),
            "in the theme": at in theme,
        }
        for at in strongest
    ]
    named = [words.words[at] for at in theme]
    return named, Measured(
        value=usual.largest,
        base=1.0,
        unit="times as much as value vectors usually write the word",
        n=len(changes),
        p_value=max(usual.p_value, rotated.p_value),
        null=f"{DRAWS} sets of {len(changes)} value vectors of the same layers, and {DRAWS} random rotations of the "
        "changes: largest excess of any word, the larger p-value",
        control=Control(name=f"{len(changes)} value vectors of the base, same layers", value=float(usual.null.mean())),
        items=rows,
        details={
            "theme": ", ".join(named) if named else "no theme stands out",
            "words": f"{len(words.words)} English words, without function words",
            "directions": float(1 / update.shares.square().sum()),
            "p_value_by_null": {"value vectors": usual.p_value, "rotated": rotated.p_value},
            "excess_of_the_theme_at_least": {"value vectors": usual.threshold, "rotated": rotated.threshold},
        },
    )
