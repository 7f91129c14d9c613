"""Value vectors, a head and a concept's words -> the vectors that write the concept, without any outside model.

A value vector ``v`` of either sign promotes the words with the largest ``sign * W_U v`` (Geva et al. 2022; Hong et al.
2024). All vectors are screened by the z-scores of the concept's logits, which need no pass over the vocabulary; the
best are projected in full and tested on their top 200.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from concepts.tokens import ConceptTokens, Lexicon, matched_sets, matched_strata

TOP = 200
"""Tokens of a projection that say what a vector writes (Hong et al. 2024, section 3)."""
STRONGEST = 0.25
"""Share of the concept's words whose z-scores are averaged, 10 of 40: a vector writes a part of a concept, not all."""
CONTROL_SETS = 4
"""Matched word sets subtracted in the screen; function-word vectors write them as much as the concept's words."""
SIGNIFICANT = 0.05
"""Benjamini-Hochberg level below which a vector's enrichment counts."""
SHOWN = 10
"""Top tokens kept for people."""


@dataclass(frozen=True)
class HeadStatistics:
    """Mean and covariance of the head's rows: ``mean [d_model]``, ``covariance [d_model, d_model]``, over ``rows``."""

    mean: torch.Tensor
    covariance: torch.Tensor
    rows: int

    @classmethod
    def from_head(cls, W_U: torch.Tensor) -> HeadStatistics:
        """Statistics of ``W_U [d_vocab, d_model]`` float32, needed once for each model."""
        mean = W_U.mean(dim=0)
        covariance = W_U.T @ W_U / W_U.shape[0] - torch.outer(mean, mean)
        return cls(mean=mean, covariance=covariance, rows=W_U.shape[0])

    def spread(self, vectors: torch.Tensor) -> torch.Tensor:
        """Standard deviation of each vector's logits over the vocabulary, ``vectors [n, d_model]`` -> ``[n]``."""
        variance = ((vectors @ self.covariance) * vectors).sum(dim=1)
        return variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()  # a zero vector scores 0, not NaN


@dataclass(frozen=True)
class ConceptVector:
    """One value vector that writes a concept.

    Attributes:
        layer, neuron: where, counted from 0.
        sign: +1 or -1, the side of the projection that carries the concept.
        score: mean logit of the concept's strongest words less that of matched words, in standard deviations of the
            vector's logits; see ``contrast``.
        p_value: of ``hits`` or more, were the concept's words matched words instead; see ``matched_p_value``.
        q_value: Benjamini-Hochberg over all vectors and both signs.
        hits: how many of the concept's words stand in the top 200.
        enrichment: ``-log10`` of the hypergeometric tail of ``hits``.
        tokens: the top tokens of ``sign * W_U v``, best first.
    """

    layer: int
    neuron: int
    sign: int
    score: float
    p_value: float
    q_value: float
    hits: int
    enrichment: float
    tokens: tuple[str, ...]


def screen(vectors: torch.Tensor, head: HeadStatistics, token_rows: torch.Tensor) -> torch.Tensor:
    """z-score of each token's logit among the vocabulary's, without computing the vocabulary.

    ``z_jt = (e_t . v_j - mean . v_j) / sqrt(v_j' Cov v_j)``.

    Args:
        vectors: ``[n, d_model]``.
        token_rows: rows of the head ``[n_tokens, d_model]``.

    Returns:
        ``[n, n_tokens]``.
    """
    return (vectors @ (token_rows - head.mean).T) / head.spread(vectors)[:, None]


def contrast(
    vectors: torch.Tensor, head: HeadStatistics, word_rows: torch.Tensor, control_rows: torch.Tensor
) -> torch.Tensor:
    """Mean z of the concept's strongest words less the same on matched words, for both signs.

    A word's z is that of the stronger of its two forms, as either stands for it in a top 200.

    Args:
        vectors: ``[n, d_model]``.
        word_rows: head rows of both forms of the concept's words ``[2, n_words, d_model]``.
        control_rows: the same of matched sets ``[2, n_sets, n_words, d_model]``.

    Returns:
        ``[2, n]``, sign +1 first.
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
    """The best vectors of a screen with their rows, best first: arrays of one entry a vector, ``rows [n, d_model]``."""

    layers: np.ndarray
    neurons: np.ndarray
    signs: np.ndarray
    scores: np.ndarray
    rows: torch.Tensor
    screened: int


def shortlist(
    layers: Iterable[tuple[int, torch.Tensor]],
    head: HeadStatistics,
    word_rows: torch.Tensor,
    control_rows: torch.Tensor,
    keep: int = TOP,
) -> Shortlist:
    """The ``keep`` best (vector, sign) of all layers by ``contrast``; one layer in memory at a time.

    A vector with entries that are not finite has no score and is never listed.

    Args:
        layers: (layer, value vectors ``[d_mlp, d_model]``).
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


def exhaustive_top(vectors: torch.Tensor, W_U: torch.Tensor, k: int = TOP, batch: int = 512) -> torch.Tensor:
    """Ids of the ``k`` largest logits of every vector, best first, ``[n, k]``; all of the vocabulary is computed.

    Args:
        vectors: ``[n, d_model]``.
        W_U: the head ``[d_vocab, d_model]``.
        batch: vectors projected at once; memory is ``batch * d_vocab`` floats.
    """
    head = W_U.T
    starts = range(0, vectors.shape[0], batch)
    return torch.cat([(vectors[start : start + batch] @ head).topk(k, dim=1).indices for start in starts])


def enrichment(hits: np.ndarray, drawn: np.ndarray, concept_words: int, all_words: int) -> np.ndarray:
    """``-log10 P(X >= hits)`` for ``drawn`` words taken at random out of ``all_words``, hypergeometric ``[n]``."""
    from scipy.stats import hypergeom  # slow to import

    return np.asarray(-hypergeom.logsf(hits - 1, all_words, concept_words, drawn) / np.log(10))


def matched_p_value(hits: int, chances: np.ndarray) -> float:
    """``P(X >= hits)`` if each concept word were replaced by a random one of its stratum; exact, no draws.

    The number of replaced words in a top 200 is a sum of independent draws with ``chances [n_tokens]``, the share of
    each stratum that stands in it (Poisson binomial): the limit of infinitely many matched sets. Each word is in its
    own stratum, so no chance of a word that was hit is zero.
    """
    distribution = np.array([1.0])
    for chance in chances:
        distribution = np.convolve(distribution, [1.0 - chance, chance])
    return float(min(1.0, distribution[hits:].sum()))


def discover(
    layers: Iterable[tuple[int, torch.Tensor]],
    W_U: torch.Tensor,
    lexicon: Lexicon,
    tokens: ConceptTokens,
    *,
    head: HeadStatistics | None = None,
    keep: int = TOP,
    seed: int = 0,
) -> list[ConceptVector]:
    """The ``keep`` best (vector, sign) of a model for a concept: those significantly enriched first, then by score.

    Args:
        layers: (layer, value vectors ``[d_mlp, d_model]`` float32), taken one at a time.
        W_U: the head ``[d_vocab, d_model]`` float32, with the final norm's scale folded in or not.
        head: its statistics, where they were computed already.
        seed: of the matched control sets of the screen.
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
    best: Shortlist, W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens, strata: list[np.ndarray]
) -> list[ConceptVector]:
    """The shortlist's vectors with the significance of their exact top 200, best first; empty for an empty one."""
    from scipy.stats import false_discovery_control  # slow to import

    if len(best.layers) == 0:
        return []
    top = exhaustive_top(torch.from_numpy(best.signs)[:, None] * best.rows, W_U, min(TOP, W_U.shape[0])).numpy()
    keys = lexicon.keys
    n_words = int(keys.max()) + 1
    written = np.zeros((len(top), n_words), dtype=bool)  # [n, words]: which merged words stand in the top 200
    np.put_along_axis(written, keys[top], True, axis=1)
    hits = written[:, keys[tokens.ids]].sum(axis=1)
    enriched = enrichment(hits, written.sum(axis=1), len(tokens), n_words)
    chances = np.stack([written[:, keys[stratum]].mean(axis=1) for stratum in strata], axis=1)  # [n, n_tokens]
    p_values = np.array([matched_p_value(int(hit), chance) for hit, chance in zip(hits, chances, strict=True)])
    tested = np.ones(2 * best.screened)  # whoever is not on the shortlist counts as p = 1
    tested[: len(p_values)] = p_values
    q_values = false_discovery_control(tested)[: len(p_values)]
    order = np.lexsort((-best.scores, q_values >= SIGNIFICANT))
    return [
        ConceptVector(
            layer=int(best.layers[i]),
            neuron=int(best.neurons[i]),
            sign=int(best.signs[i]),
            score=float(best.scores[i]),
            p_value=float(p_values[i]),
            q_value=float(q_values[i]),
            hits=int(hits[i]),
            enrichment=float(enriched[i]),
            tokens=tuple(lexicon.texts[token] for token in top[i, :SHOWN]),
        )
        for i in order
    ]
