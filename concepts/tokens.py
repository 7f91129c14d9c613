"""A concept's text, seeds or bare name -> the vocabulary's words that belong to it.

A *word* here is one lower-case string; its *forms* are the whole-word tokens that spell it in any case, with or without
a leading space. Forms are merged: a vector that writes `` Italy`` and ``italy`` writes one word. Loads no torch.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Protocol

import numpy as np
from scipy.linalg import solve_triangular

from concepts.concept import Concept

WORDS = re.compile(r"[^\W\d_]+")
PRIOR_WORDS = 500.0
"""Weight of the background in a text's word shares, in words: one use in a short text makes no word typical."""
BACKGROUND_WORDS = 1e9
"""Size credited to the background corpus; its own sampling error is then nothing beside a text's."""
TEXT_WORDS, NAME_WORDS = 40, 20
MIN_Z = 3.0
"""Words below this are not typical of the text (three standard errors)."""
COMMON = 1e-3
"""Share of English above which a word is one of grammar, whatever the text: the hundred most frequent words."""
NEIGHBOUR_COSINE = 0.25
"""Whitened rows less alike than this share no sense: on SmolLM2 1 in 10,000 pairs of random words reaches it."""

STRATUM = 400
"""Tokens of the same form and nearest frequency that a concept token is compared with."""


class Vocabulary(Protocol):
    """What is needed of a tokenizer; a token that begins a word decodes with the space before it."""

    @property
    def size(self) -> int: ...

    def decode_one(self, token: int) -> str: ...


@dataclass(frozen=True)
class ConceptTokens:
    """The words of a concept, most typical first.

    Attributes:
        ids: one token a word, the form used most in the source, ``[n_words]`` int64.
        words: the same words, lower case.
        z: how typical each is: log-odds z-score against the background, or cosine with the name, ``[n_words]``.
        source: ``"text"`` or ``"name"``; ``z`` is a z-score in the first case and a cosine in the second.
        skipped: typical words that are no single token of this vocabulary and could not be used.
    """

    ids: np.ndarray
    words: tuple[str, ...]
    z: np.ndarray
    source: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.words)


class Lexicon:
    """The words of a vocabulary: each token's word, and each word's forms."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.texts = tuple(vocabulary.decode_one(token) for token in range(vocabulary.size))

    @cached_property
    def keys(self) -> np.ndarray:
        """For each token the number of its merged text: equal for all forms of one word ``[d_vocab]``."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(_word(text.strip()) or text, len(numbers)) for text in self.texts])

    @cached_property
    def whole_words(self) -> dict[str, tuple[int, ...]]:
        """Word -> its forms, for the words that one token spells together with the space before it."""
        forms: dict[str, list[int]] = {}
        for token, text in enumerate(self.texts):
            if WORDS.fullmatch(text.removeprefix(" ")):
                forms.setdefault(_word(text.strip()), []).append(token)
        return {word: tuple(ids) for word, ids in forms.items() if any(self.texts[i][0] == " " for i in ids)}

    def forms(self, tokens: np.ndarray) -> np.ndarray:
        """Each token, and the most frequent other form of its word (or itself again), ``[2, *tokens.shape]``.

        Tokenizers number tokens by how often they were merged, so the lowest id stands for the most frequent form.
        """
        others = [next((form for form in self._siblings(token) if form != token), token) for token in tokens.flat]
        return np.stack([tokens, np.array(others, dtype=tokens.dtype).reshape(tokens.shape)])

    def _siblings(self, token: int) -> tuple[int, ...]:
        return self.whole_words[_word(self.texts[token].strip())]

    def form(self, surface: str) -> int | None:
        """The token of a word as written, else of its nearest form; ``None`` if no single token spells it."""
        forms = self.whole_words.get(_word(surface))
        if forms is None:
            return None
        wanted = (f" {surface}", surface, f" {surface.capitalize()}", f" {surface.lower()}")
        by_text = {self.texts[token]: token for token in reversed(forms)}
        return next((by_text[text] for text in wanted if text in by_text), forms[0])


def concept_tokens(
    lexicon: Lexicon, concept: Concept, embedding: np.ndarray | None = None, limit: int | None = None
) -> ConceptTokens:
    """The words that tell this concept from English at large.

    With a text or questions: ``z = (log p_c - log p_bg) / sqrt(1/(k+.5) + 1/(o+.5))``, with ``k`` and ``o`` the word's
    counts in the concept's text and in the background, ``p_c`` smoothed toward the background (after Monroe et al.
    2008); seeds come first. With a name alone: its forms, then the words whose head rows lie nearest by cosine.

    Args:
        embedding: rows of the head ``[d_vocab, d_model]``; needed for a bare name only.
        limit: at most this many words; default 40 from a text, 20 from a name.

    Raises:
        ValueError: no word of the concept is a single token of this vocabulary.
    """
    corpus = source_text(concept)
    if corpus:
        return _from_text(lexicon, corpus, concept.seeds, limit or TEXT_WORDS)
    if embedding is None:
        raise ValueError(f"{concept.title!r} has a name only: the head's rows are needed to find its neighbours")
    return _from_name(lexicon, concept.seeds, embedding, limit or NAME_WORDS)


def source_text(concept: Concept) -> str:
    """All prose a concept brings: its article, its questions and their answers."""
    asked = [text for question in concept.questions for text in (question.question, question.answer or "")]
    return "\n".join(part for part in (concept.text, *asked) if part)


@cache
def background() -> dict[str, float]:
    """English word -> its share of all words, for the 60,000 most frequent (see ``concepts/data/README.md``)."""
    packed = (files(__package__) / "data" / "background.en.tsv.gz").read_bytes()
    rows = (line.split("\t") for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return {word: float(share) for word, share in rows}


@cache
def rarest() -> float:
    """The share credited to a word that the table does not list: half of its rarest."""
    return min(background().values()) / 2


def matched_strata(lexicon: Lexicon, tokens: ConceptTokens, size: int = STRATUM) -> list[np.ndarray]:
    """For each concept token the ``size`` whole-word tokens nearest in corpus frequency and of the same form.

    Same form: with or without a leading space, lower case, capitalised or upper case. The token itself is in its own
    stratum; ties go to the lower id. One int64 array ``[<= size]`` a token.
    """
    candidates = np.array(sorted(token for forms in lexicon.whole_words.values() for token in forms))
    shares = np.log([background_frequency(lexicon.texts[token].strip()) for token in candidates])
    shapes = np.array([_shape(lexicon.texts[token]) for token in candidates])
    strata = []
    for token in tokens.ids:
        text = lexicon.texts[token]
        alike = shapes == _shape(text)
        distance = np.abs(shares[alike] - np.log(background_frequency(text.strip())))
        distance[candidates[alike] == token] = -1.0
        strata.append(candidates[alike][np.argsort(distance, kind="stable")[:size]])
    return strata


def matched_sets(
    strata: Sequence[np.ndarray], lexicon: Lexicon, tokens: ConceptTokens, n_sets: int, rng: np.random.Generator
) -> np.ndarray:
    """Token sets of the concept's corpus frequencies that are not the concept's words ``[n_sets, n_tokens]``.

    Each token is replaced by one drawn from its stratum; within a set a token may stand more than once where strata
    overlap.
    """
    own = np.isin(lexicon.keys, lexicon.keys[tokens.ids])
    others = [stratum[~own[stratum]] for stratum in strata]
    return np.stack([rng.choice(stratum, size=n_sets) for stratum in others], axis=1)


def background_frequency(word: str) -> float:
    """Share of ``word`` among all English words, in any case."""
    return background().get(_word(word), rarest())


def log_odds(counts: Counter[str]) -> dict[str, float]:
    """Each counted word's z-score against the background (formula in ``concept_tokens``)."""
    total = sum(counts.values())
    scores = {}
    for word, k in counts.items():
        share = background_frequency(word)
        smoothed = (k + PRIOR_WORDS * share) / (total + PRIOR_WORDS)
        error = 1 / (k + 0.5) + 1 / (share * BACKGROUND_WORDS + 0.5)
        scores[word] = float((np.log(smoothed) - np.log(share)) / np.sqrt(error))
    return scores


def _from_text(lexicon: Lexicon, text: str, seeds: Sequence[str], limit: int) -> ConceptTokens:
    surfaces = Counter(WORDS.findall(unicodedata.normalize("NFC", text)))
    usual: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for surface, count in surfaces.most_common():
        usual.setdefault(_word(surface), surface)
        counts[_word(surface)] += count
    scores = log_odds(counts)
    sown = {_word(seed): seed for seed in seeds if WORDS.fullmatch(seed)}
    typical = sorted((word for word in scores if _typical(word, scores[word])), key=lambda word: (-scores[word], word))
    ordered = list(dict.fromkeys([*sown, *typical]))
    return _tokens(
        lexicon, ordered, {**usual, **sown}, {word: scores.get(word, 0.0) for word in ordered}, limit, "text"
    )


def _from_name(lexicon: Lexicon, names: Sequence[str], embedding: np.ndarray, limit: int) -> ConceptTokens:
    forms = [token for name in names for token in lexicon.whole_words.get(_word(name), ())]
    if not forms:
        raise ValueError(f"{', '.join(names)} is no single token of this vocabulary")
    rows = whitened(embedding)
    cosines = (rows @ rows[forms].T).max(axis=1)
    scores: dict[str, float] = {}
    usual: dict[str, str] = {}
    own = {_word(name) for name in names}
    for token in np.argsort(-cosines, kind="stable")[: 20 * limit]:
        word = _word(lexicon.texts[token].strip())
        known = word in own or (cosines[token] >= NEIGHBOUR_COSINE and word in background())
        if known and word in lexicon.whole_words and word not in scores:
            scores[word], usual[word] = float(cosines[token]), lexicon.texts[token].strip()
    found = _tokens(lexicon, list(scores), usual, scores, limit, "name")
    return replace(found, skipped=tuple(name for name in names if _word(name) not in lexicon.whole_words))


def whitened(embedding: np.ndarray) -> np.ndarray:
    """Rows of a head in which every direction varies alike, of length 1 ``[d_vocab, d_model]``.

    Inner products then follow meaning (Park et al. 2024, "The linear representation hypothesis", section 3.2); plain
    cosines follow frequency and word fragments, which all rows share.
    """
    centred = embedding - embedding.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    ridge = 1e-6 * np.trace(covariance) / len(covariance)  # directions the head does not use hold rounding errors only
    factor = np.linalg.cholesky(
        covariance + (ridge + np.finfo(np.float32).tiny) * np.eye(len(covariance), dtype=covariance.dtype)
    )
    white = solve_triangular(factor, centred.T, lower=True).T
    length = np.linalg.norm(white, axis=1, keepdims=True)
    return np.asarray(white / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)


def _tokens(
    lexicon: Lexicon,
    ordered: Sequence[str],
    surfaces: dict[str, str],
    scores: dict[str, float],
    limit: int,
    source: str,
) -> ConceptTokens:
    found = {word: token for word in ordered if (token := lexicon.form(surfaces[word])) is not None}
    if not found:
        raise ValueError("none of the concept's words is a single token of this vocabulary")
    words = tuple(found)[:limit]
    return ConceptTokens(
        ids=np.array([found[word] for word in words], dtype=np.int64),
        words=words,
        z=np.array([scores[word] for word in words], dtype=np.float32),
        source=source,
        skipped=tuple(word for word in ordered if word not in found),
    )


def _typical(word: str, z: float) -> bool:
    return z >= MIN_Z and len(word) > 1 and background_frequency(word) < COMMON


def _shape(text: str) -> str:
    """Leading space and case of a token's text, e.g. `` Xx``."""
    word = text.strip()
    case = "x" if word.islower() else "Xx" if word[1:].islower() else "X"
    return f"{text[: len(text) - len(text.lstrip())]}{case}"


def _word(surface: str) -> str:
    return unicodedata.normalize("NFC", surface).casefold()
