"""Whether answers can be guessed from the wording of their questions alone, without any knowledge.

Questions and answers are bags of words and character 3-grams. Two guessers are tried: one takes the answer that looks
most like the question (Gulf of *Mexico* -> *Mexico*); the other learns from the concept's facts about other subjects
which answers look like which questions (kernel ridge regression). Facts of other concepts are no examples: two concepts
may ask for the same work, and that would be knowledge. A guesser's score is the similarity of its guesses to the truth.
The null permutes the true answers among the facts of one type; the regression is linear in the answers, so that it is
fitted anew to each permutation at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from concepts.facts import Fact

PENALTY = 1.0
DRAWS = 1_999


def p_values(facts: Mapping[str, Sequence[Fact]], seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """Concept -> p-value of its facts, and ``"library"`` -> that of all.

    Two-sided in the guessers' scores and corrected for trying two: each draw's largest deviation from the mean of the
    draws, in standard deviations, is compared with the observed one.
    """
    rng = np.random.default_rng(seed)
    scores = {name: _scores(_distinct(some), rng, draws) for name, some in facts.items()}
    return {name: _p_value(each) for name, each in (scores | {"library": sum(scores.values())}).items()}


def _scores(facts: Sequence[Fact], rng: np.random.Generator, draws: int) -> np.ndarray:
    """Sum over the facts of the similarity of guess and truth [draw, guesser]; draw 0 is the truth as it is."""
    questions, answers = _features(facts)
    likeness = (questions @ answers.T).toarray()  # [question, answer]
    learned = _left_out_ridge((questions @ questions.T).toarray(), [fact.subject for fact in facts])
    alike = (answers @ answers.T).toarray()
    types = _members([fact.type or "" for fact in facts])
    everyone = np.arange(len(facts))
    scores = np.empty((draws + 1, 2))
    for draw in range(draws + 1):
        order = everyone.copy()
        for members in types if draw else ():
            order[members] = rng.permutation(everyone[members])
        scores[draw] = likeness[everyone, order].sum(), (learned * alike[np.ix_(order, order)]).sum()
    return scores


def _p_value(scores: np.ndarray) -> float:
    """Of the first row of ``scores`` [draw, guesser] among all rows."""
    spread = scores.std(axis=0)
    deviation = np.abs(scores - scores.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    largest = deviation.max(axis=1)
    return float((largest >= largest[0] - 1e-9).mean())


def _distinct(facts: Sequence[Fact]) -> list[Fact]:
    """One wording of each fact; another one has the same subject and is never an example for it."""
    return list({(fact.type, fact.subject, fact.answer): fact for fact in facts}.values())


def _features(facts: Sequence[Fact]) -> tuple[csr_matrix, csr_matrix]:
    """Unit rows for questions and answers, in the same features: half of the weight for words, half for 3-grams."""
    asked, true = [fact.question.question for fact in facts], [fact.answer for fact in facts]
    halves = []
    for options in ({"analyzer": "word", "token_pattern": r"\w+"}, {"analyzer": "char_wb", "ngram_range": (3, 3)}):
        vectoriser = TfidfVectorizer(**options).fit([*asked, *true])
        halves.append([vectoriser.transform(some) / np.sqrt(2) for some in (asked, true)])
    questions, answers = (csr_matrix(hstack(parts)) for parts in zip(*halves, strict=True))
    return questions, answers


def _left_out_ridge(kernel: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """Weights [fact, fact] of the true answers in each fact's guess, fitted without the facts of its subject."""
    smoother = kernel @ np.linalg.inv(kernel + PENALTY * np.eye(len(kernel)))
    weights = np.zeros_like(smoother)
    for members in _members(subjects):
        own = np.flatnonzero(members)
        rest = np.eye(len(own)) - smoother[np.ix_(own, own)]
        weights[own] = np.linalg.solve(rest, np.where(members, 0.0, smoother[own]))
    return weights


def _members(labels: Sequence[str]) -> list[np.ndarray]:
    """For each label, which entries have it."""
    names = np.array(labels)
    return [names == name for name in dict.fromkeys(labels)]
