"""The words of a vocabulary that belong to a concept, from its text, its seeds or its name alone.

A *word* here is one lower-case string; its *forms* are the whole-word tokens that spell it in any case, with or without
a leading space. Forms are merged: a vector that writes `` Italy`` and ``italy`` writes one word. Loads no torch.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from concepts.concept import Concept

WORDS = re.compile(r"[^\W\d_]+")
PRIOR_WORDS = 500.0
"""Weight of the background in a text's word shares, in words: one use in a short text does not make a word typical."""
BACKGROUND_WORDS = 1e9
"""Assumed size of the background corpus; its sampling error is then negligible against a text's."""
TEXT_WORDS, NAME_WORDS = 40, 20
"""Most words of a concept, from a text and from a name."""
MIN_Z = 3.0
"""Words below this are not typical of the text (three standard errors)."""
COMMON = 1e-3
"""Share of English above which a word counts as a function word in any text: the hundred most frequent words."""
NEIGHBOUR_COSINE = 0.25
"""Whitened rows with a smaller cosine are not related: on SmolLM2 1 in 10,000 pairs of random words reaches it."""

STRATUM = 400
"""Tokens of the same form and nearest frequency that a concept token is compared with."""


@runtime_checkable
class Vocabulary(Protocol):
    """The part of a tokenizer that is used here; a token that begins a word decodes with the space before it."""

    @property
    def size(self) -> int: ...

    def decode_one(self, token: int) -> str: ...


@dataclass(frozen=True)
class ConceptTokens:
    """The words of a concept, most typical first.

    Attributes:
        ids: one token a word: the form that the source uses most.
        words: the same words in lower case.
        z: how typical each word is.
        source: ``"text"`` if ``z`` is the log-odds z-score against the background, ``"name"`` if it is the cosine with
            the name.
        skipped: typical words that are not a single token of this vocabulary.
    """

    ids: Int[np.ndarray, " n_words"]
    words: tuple[str, ...]
    z: Float[np.ndarray, " n_words"]
    source: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.words)


class Lexicon:
    """The words of a vocabulary: each token's word, and each word's forms."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.texts = tuple(vocabulary.decode_one(token) for token in range(vocabulary.size))

    @cached_property
    def keys(self) -> Int[np.ndarray, " d_vocab"]:
        """A number for each token's word: equal for all forms of one word."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(_word(text.strip()) or text, len(numbers)) for text in self.texts])

    @cached_property
    def whole_words(self) -> dict[str, tuple[int, ...]]:
        """Word -> its forms, for words that some single token spells with the space before it."""
        forms: dict[str, list[int]] = {}
        for token, text in enumerate(self.texts):
            if WORDS.fullmatch(text.removeprefix(" ")):
                forms.setdefault(_word(text.strip()), []).append(token)
        return {word: tuple(ids) for word, ids in forms.items() if any(self.texts[i][0] == " " for i in ids)}

    def forms(self, tokens: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, " 2 *shape"]:
        """Each token, and the most frequent other form of its word; the token again if its word has no other form.

        Tokenizers number tokens by how often they were merged, so the lowest id is the most frequent form.
        """
        others = [
            next((form for form in self._siblings(token) if form != token), token) for token in tokens.ravel().tolist()
        ]
        return np.stack([tokens, np.array(others, dtype=tokens.dtype).reshape(tokens.shape)])

    def _siblings(self, token: int) -> tuple[int, ...]:
        return self.whole_words[_word(self.texts[token].strip())]

    def form(self, surface: str) -> int | None:
        """The token of a word as written, or of its nearest form; ``None`` if no single token spells it."""
        forms = self.whole_words.get(_word(surface))
        if forms is None:
            return None
        wanted = (f" {surface}", surface, f" {surface.capitalize()}", f" {surface.lower()}")
        by_text = {self.texts[token]: token for token in reversed(forms)}
        return next((by_text[text] for text in wanted if text in by_text), forms[0])


def concept_tokens(
    lexicon: Lexicon,
    concept: Concept,
    embedding: Float[np.ndarray, "d_vocab d_model"] | None = None,
    limit: int | None = None,
) -> ConceptTokens:
    """The words that distinguish this concept from English in general.

    With a text or questions: ``z = (log p_c - log p_bg) / sqrt(1/(k+.5) + 1/(o+.5))``, with ``k`` and ``o`` the word's
    counts in the concept's text and in the background, ``p_c`` smoothed toward the background (after Monroe et al.
    2008); seeds come first. With a name alone: its forms, then the words whose head rows have the largest cosine.

    Args:
        embedding: rows of the head; needed for a bare name only.
        limit: at most this many words; by default 40 from a text, 20 from a name.

    Raises:
        ValueError: no word of the concept is a single token of this vocabulary.
    """
    corpus = source_text(concept)
    if corpus:
        return _from_text(lexicon, corpus, concept.seeds, limit or TEXT_WORDS)
    if embedding is None:
        raise ValueError(f"{concept.title!r} has only a name: the head's rows are needed to find its neighbours")
    return _from_name(lexicon, concept.seeds, embedding, limit or NAME_WORDS)


def source_text(concept: Concept) -> str:
    """All prose of a concept: its article, its questions and their answers."""
    questions = [text for question in concept.questions for text in (question.question, question.answer or "")]
    return "\n".join(part for part in (concept.text, *questions) if part)


@cache
def background() -> dict[str, float]:
    """English word -> its share of all words, for the 60,000 most frequent (see ``concepts/data/README.md``)."""
    packed = (files(__package__) / "data" / "background.en.tsv.gz").read_bytes()
    rows = (line.split("\t") for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return {word: float(share) for word, share in rows}


@cache
def rarest() -> float:
    """The share assumed for a word that the table does not list: half of its rarest word's."""
    return min(background().values()) / 2


def matched_strata(lexicon: Lexicon, tokens: ConceptTokens, size: int = STRATUM) -> list[Int[np.ndarray, " _"]]:
    """The stratum of each concept token: the ``size`` whole-word tokens of the same form nearest in corpus frequency.

    The form is: with or without a leading space; lower case, capitalised or upper case. The token itself is in its own
    stratum; ties go to the lower id. A stratum is smaller where the vocabulary has fewer tokens of the form.
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
    strata: Sequence[Int[np.ndarray, " _"]],
    lexicon: Lexicon,
    tokens: ConceptTokens,
    n_sets: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "n_sets n_tokens"]:
    """Token sets with the concept's corpus frequencies, without the concept's words.

    Each token is replaced by one drawn from its stratum; where strata overlap, a set may hold a token more than once.
    """
    own = np.isin(lexicon.keys, lexicon.keys[tokens.ids])
    others = [stratum[~own[stratum]] for stratum in strata]
    return np.stack([rng.choice(stratum, size=n_sets) for stratum in others], axis=1)


def background_frequency(word: str) -> float:
    """Share of ``word`` among all English words; its case is ignored."""
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
    usual: dict[str, str] = {}  # word -> its most frequent form in the text
    counts: Counter[str] = Counter()
    for surface, count in surfaces.most_common():
        usual.setdefault(_word(surface), surface)
        counts[_word(surface)] += count
    scores = log_odds(counts)
    seeded = {_word(seed): seed for seed in seeds if WORDS.fullmatch(seed)}
    typical = sorted((word for word in scores if _typical(word, scores[word])), key=lambda word: (-scores[word], word))
    z = {word: scores.get(word, 0.0) for word in (*seeded, *typical)}
    return _tokens(lexicon, {**usual, **seeded}, z, limit, "text")


def _from_name(
    lexicon: Lexicon, names: Sequence[str], embedding: Float[np.ndarray, "d_vocab d_model"], limit: int
) -> ConceptTokens:
    forms = [token for name in names for token in lexicon.whole_words.get(_word(name), ())]
    if not forms:
        raise ValueError(f"{', '.join(names)} is not a single token of this vocabulary")
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
    tokens = _tokens(lexicon, usual, scores, limit, "name")
    return replace(tokens, skipped=tuple(name for name in names if _word(name) not in lexicon.whole_words))


def whitened(
    embedding: Float[np.ndarray, "d_vocab d_model"],
) -> Float[np.ndarray, "d_vocab d_model"]:
    """Rows of a head scaled to equal variance in every direction, then to length 1.

    Their inner products follow meaning (Park et al. 2024, "The linear representation hypothesis", section 3.2); plain
    cosines follow frequency and word fragments, which all rows share.
    """
    centred = embedding - embedding.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    ridge = 1e-6 * np.trace(covariance) / len(covariance)  # unused directions hold only rounding errors
    factor = np.linalg.cholesky(
        covariance + (ridge + np.finfo(np.float32).tiny) * np.eye(len(covariance), dtype=covariance.dtype)
    )
    white = solve_triangular(factor, centred.T, lower=True).T
    length = np.linalg.norm(white, axis=1, keepdims=True)
    return np.asarray(white / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)


def _tokens(
    lexicon: Lexicon, surfaces: Mapping[str, str], scores: Mapping[str, float], limit: int, source: str
) -> ConceptTokens:
    """The first ``limit`` words of ``scores`` that are single tokens, each in the form that ``surfaces`` gives."""
    forms = {word: token for word in scores if (token := lexicon.form(surfaces[word])) is not None}
    if not forms:
        raise ValueError("none of the concept's words is a single token of this vocabulary")
    words = tuple(forms)[:limit]
    return ConceptTokens(
        ids=np.array([forms[word] for word in words], dtype=np.int64),
        words=words,
        z=np.array([scores[word] for word in words], dtype=np.float32),
        source=source,
        skipped=tuple(word for word in scores if word not in forms),
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
