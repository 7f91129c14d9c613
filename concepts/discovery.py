"""Concept vectors: value vectors that write a concept's words, from the weights and the vocabulary alone.

A value vector ``v`` of either sign promotes the words with the largest ``sign * W_U v`` (Geva et al. 2022; Hong et al.
2024). ``discover`` screens all vectors by the z-scores of the concept's logits, which need no pass over the
vocabulary, then projects the best in full and tests their top 200 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from concepts.neuron import Neuron
from concepts.tokens import ConceptTokens, Lexicon, matched_sets, matched_strata

TOP_TOKENS = 200
"""Tokens of a projection that count as what a vector writes (Hong et al. 2024, section 3)."""
STRONGEST = 0.25
"""Share of the concept's words whose z-scores are averaged, 10 of 40: one vector writes only a part of a concept."""
CONTROL_SETS = 4
"""Matched word sets subtracted in the screen; a vector of function words writes them as much as the concept's words."""
FALSE_DISCOVERY_RATE = 0.05
"""Benjamini-Hochberg level below which a vector's enrichment is significant."""
SHOWN = 10
"""Top tokens kept in the record, for display."""


@dataclass(frozen=True)
class HeadStatistics:
    """Mean and covariance of the head's ``rows`` rows."""

    mean: Float[torch.Tensor, " d_model"]
    covariance: Float[torch.Tensor, "d_model d_model"]
    rows: int

    @classmethod
    def from_head(cls, W_U: Float[torch.Tensor, "d_vocab d_model"]) -> HeadStatistics:
        """Statistics of a float32 head; compute them once for each model."""
        mean = W_U.mean(dim=0)
        covariance = W_U.T @ W_U / W_U.shape[0] - torch.outer(mean, mean)
        return cls(mean=mean, covariance=covariance, rows=W_U.shape[0])

    def spread(self, vectors: Float[torch.Tensor, "n d_model"]) -> Float[torch.Tensor, " n"]:
        """Standard deviation of each vector's logits over the vocabulary."""
        variance = ((vectors @ self.covariance) * vectors).sum(dim=1)
        return variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()  # a zero vector scores 0, not NaN


@dataclass(frozen=True)
class ConceptVector:
    """One value vector that writes a concept.

    Attributes:
        place: the neuron, with the side of the projection that carries the concept.
        score: mean logit of the concept's strongest words minus that of matched words, in standard deviations of the
            vector's logits; see ``contrast``.
        p_value: probability of ``hits`` or more if the concept's words were matched words; see ``matched_p_values``.
        q_value: Benjamini-Hochberg over all vectors and both signs.
        hits: how many of the concept's words are in the top 200.
        enrichment: ``-log10`` of the hypergeometric tail of ``hits``.
        tokens: the top tokens of ``sign * W_U v``, best first.
    """

    place: Neuron
    score: float
    p_value: float
    q_value: float
    hits: int
    enrichment: float
    tokens: tuple[str, ...]


def screen(
    vectors: Float[torch.Tensor, "n d_model"], head: HeadStatistics, token_rows: Float[torch.Tensor, "n_tokens d_model"]
) -> Float[torch.Tensor, "n n_tokens"]:
    """z-score of each token's logit among the logits of the vocabulary, which are not computed.

    ``z_jt = (e_t . v_j - mean . v_j) / sqrt(v_j' Cov v_j)``.

    Args:
        token_rows: rows of the head.
    """
    return (vectors @ (token_rows - head.mean).T) / head.spread(vectors)[:, None]


def contrast(
    vectors: Float[torch.Tensor, "n d_model"],
    head: HeadStatistics,
    word_rows: Float[torch.Tensor, "2 n_words d_model"],
    control_rows: Float[torch.Tensor, "2 n_sets n_words d_model"],
) -> Float[torch.Tensor, "2 n"]:
    """Mean z of the concept's strongest words minus the same mean of matched words; the row of sign +1 is first.

    A word's z is that of the stronger of its two forms, since either form in a top 200 counts as the word.

    Args:
        word_rows: head rows of both forms of the concept's words.
        control_rows: head rows of both forms of the matched words.
    """
    sets = torch.cat([word_rows[:, None], control_rows], dim=1)  # [2, 1 + n_sets, n_words, d_model]
    first, second = screen(vectors, head, sets.flatten(0, 2)).chunk(2, dim=1)  # [n, (1 + n_sets) * n_words]
    n_sets, n_words = sets.shape[1:3]
    k = max(1, round(STRONGEST * n_words))
    highest = torch.maximum(first, second).reshape(-1, n_sets, n_words)
    lowest = torch.minimum(first, second).reshape(-1, n_sets, n_words)
    positive = highest.topk(k, dim=2, sorted=False).values.mean(dim=2)
    negative = -lowest.topk(k, dim=2, largest=False, sorted=False).values.mean(dim=2)
    both = torch.stack([positive, negative])  # [2, n, 1 + n_sets]
    return both[..., 0] - both[..., 1:].mean(dim=-1)


@dataclass(frozen=True)
class Shortlist:
    """The best of ``screened`` vectors with their rows, best first."""

    layers: Int[np.ndarray, " n"]
    neurons: Int[np.ndarray, " n"]
    signs: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    rows: Float[torch.Tensor, "n d_model"]
    screened: int


def shortlist(
    layers: Iterable[tuple[int, Float[torch.Tensor, "d_mlp d_model"]]],
    head: HeadStatistics,
    word_rows: Float[torch.Tensor, "2 n_words d_model"],
    control_rows: Float[torch.Tensor, "2 n_sets n_words d_model"],
    keep: int = TOP_TOKENS,
) -> Shortlist:
    """The ``keep`` best (vector, sign) of all layers by ``contrast``; one layer in memory at a time.

    A vector with entries that are not finite has no score and is never listed.

    Args:
        layers: (layer, its value vectors).
    """
    best: list[tuple[float, int, int, int, torch.Tensor]] = []
    screened = 0
    for layer, vectors in layers:
        scores = contrast(vectors, head, word_rows, control_rows).flatten()
        screened += vectors.shape[0]
        top = scores.nan_to_num(nan=-torch.inf, posinf=-torch.inf).topk(min(keep, scores.numel()))
        for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            side, neuron = divmod(index, vectors.shape[0])
            if math.isfinite(value):
                best.append((value, layer, neuron, -1 if side else 1, vectors[neuron].clone()))
        best = sorted(best, key=lambda entry: -entry[0])[:keep]
    return Shortlist(
        layers=np.array([layer for _, layer, *_ in best], dtype=np.int64),
        neurons=np.array([neuron for _, _, neuron, *_ in best], dtype=np.int64),
        signs=np.array([sign for *_, sign, _ in best], dtype=np.int64),
        scores=np.array([value for value, *_ in best], dtype=np.float32),
        rows=torch.stack([row for *_, row in best]) if best else word_rows.new_empty(0, word_rows.shape[-1]),
        screened=screened,
    )


def exhaustive_top(
    vectors: Float[torch.Tensor, "n d_model"],
    W_U: Float[torch.Tensor, "d_vocab d_model"],
    k: int = TOP_TOKENS,
    batch: int = 512,
) -> Int[torch.Tensor, "n k"]:
    """Ids of the ``k`` largest logits of every vector, best first; the logits of the whole vocabulary are computed.

    Args:
        batch: vectors projected at once; memory is ``batch * d_vocab`` floats.
    """
    head = W_U.T
    starts = range(0, vectors.shape[0], batch)
    return torch.cat([(vectors[start : start + batch] @ head).topk(k, dim=1).indices for start in starts])


def enrichment(
    hits: Int[np.ndarray, " n"], drawn: Int[np.ndarray, " n"], concept_words: int, all_words: int
) -> Float[np.ndarray, " n"]:
    """``-log10 P(X >= hits)``, hypergeometric: ``drawn`` words taken at random out of ``all_words``."""
    from scipy.stats import hypergeom  # slow to import

    return np.asarray(-hypergeom.logsf(hits - 1, all_words, concept_words, drawn) / np.log(10))


def matched_p_values(hits: Int[np.ndarray, " n"], chances: Float[np.ndarray, "n n_tokens"]) -> Float[np.ndarray, " n"]:
    """``P(X >= hits)`` of each vector if every concept word were replaced by a random word of its stratum; exact.

    The number of replaced words in a top 200 is a sum of independent draws, each with its stratum's share of words in
    that top 200 (Poisson binomial): the limit of infinitely many matched sets. A concept word is in its own stratum,
    so the chance of a word that was hit is above 0.
    """
    from scipy.stats import poisson_binom  # slow to import

    counts = np.arange(chances.shape[1] + 1)
    masses = poisson_binom(chances[:, None]).pmf(counts)  # [n, n_tokens + 1]
    # the tail is summed: scipy's sf is 1 - cdf, and a p-value below 1e-16 would be lost in it
    return np.array([min(1.0, mass[hit:].sum()) for mass, hit in zip(masses, hits, strict=True)])


def discover(
    layers: Iterable[tuple[int, Float[torch.Tensor, "d_mlp d_model"]]],
    W_U: Float[torch.Tensor, "d_vocab d_model"],
    lexicon: Lexicon,
    tokens: ConceptTokens,
    *,
    head: HeadStatistics | None = None,
    keep: int = TOP_TOKENS,
    seed: int = 0,
) -> list[ConceptVector]:
    """The ``keep`` best (vector, sign) of a model for a concept: significantly enriched ones first, then by score.

    Args:
        layers: (layer, its value vectors, float32), read one at a time.
        W_U: the head, float32, with the final norm's scale folded in or not.
        head: its statistics, if they are computed already.
        seed: for the matched control sets of the screen.
    """
    strata = matched_strata(lexicon, tokens)
    controls = matched_sets(strata, lexicon, tokens, CONTROL_SETS, np.random.default_rng(seed))
    best = shortlist(
        layers,
        head or HeadStatistics.from_head(W_U),
        W_U[torch.from_numpy(lexicon.forms(tokens.ids))],
        W_U[torch.from_numpy(lexicon.forms(controls))],
        keep,
    )
    return rank(best, W_U, lexicon, tokens, strata)


def rank(
    best: Shortlist,
    W_U: Float[torch.Tensor, "d_vocab d_model"],
    lexicon: Lexicon,
    tokens: ConceptTokens,
    strata: list[Int[np.ndarray, " _"]],
) -> list[ConceptVector]:
    """The vectors of the shortlist with the significance of their exact top 200, best first.

    Args:
        strata: of each concept token; see ``matched_strata``.
    """
    from scipy.stats import false_discovery_control  # slow to import

    if len(best.layers) == 0:
        return []
    top = exhaustive_top(torch.from_numpy(best.signs)[:, None] * best.rows, W_U, min(TOP_TOKENS, W_U.shape[0])).numpy()
    keys = lexicon.keys
    written = _written(top, keys)
    hits = written[:, keys[tokens.ids]].sum(axis=1)
    enriched = enrichment(hits, written.sum(axis=1), len(tokens), written.shape[1])
    chances = np.stack([written[:, keys[stratum]].mean(axis=1) for stratum in strata], axis=1)  # [n, n_tokens]
    p_values = matched_p_values(hits, chances)
    tested = np.ones(2 * best.screened)  # a vector outside the shortlist counts as p = 1
    tested[: len(p_values)] = p_values
    q_values = false_discovery_control(tested)[: len(p_values)]
    order = np.lexsort((-best.scores, q_values >= FALSE_DISCOVERY_RATE))
    return [
        ConceptVector(
            place=Neuron(int(best.layers[i]), int(best.neurons[i]), int(best.signs[i])),
            score=float(best.scores[i]),
            p_value=float(p_values[i]),
            q_value=float(q_values[i]),
            hits=int(hits[i]),
            enrichment=float(enriched[i]),
            tokens=tuple(lexicon.texts[token] for token in top[i, :SHOWN]),
        )
        for i in order
    ]


def _written(top: Int[np.ndarray, "n k"], keys: Int[np.ndarray, " d_vocab"]) -> Bool[np.ndarray, "n n_words"]:
    """Which words, with their forms merged, are among each vector's top tokens."""
    written = np.zeros((len(top), int(keys.max()) + 1), dtype=bool)
    np.put_along_axis(written, keys[top], True, axis=1)
    return written
