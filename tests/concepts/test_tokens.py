from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from concepts.concept import from_word, load_concept
from concepts.tokens import (
    ConceptTokens,
    Lexicon,
    background,
    background_frequency,
    concept_tokens,
    log_odds,
    matched_sets,
    matched_strata,
    rarest,
    whitened,
)

COMMON = (
    "the",
    "of",
    "and",
    "city",
    "water",
    "people",
    "house",
    "time",
    "year",
    "world",
    "small",
    "man",
    "child",
    "tree",
)
ITALIAN = ("Italy", "Rome", "Venice", "Naples", "Sicily")
OTHER = ("Kenya", "Tokyo", "Boston", "Berlin", "Moscow", "Cairo", "Denver", "Dublin")


@dataclass(frozen=True)
class Words:
    """A vocabulary given as its texts."""

    texts: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.texts)

    def decode_one(self, token: int) -> str:
        return self.texts[token]


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    spaced = [f" {word}" for word in (*COMMON, *ITALIAN, *OTHER)]
    return Lexicon(Words((*spaced, "Italy", " italy", "ITALY", "ital", "ing", ".", "�", " ", "", "Rome")))


def words_of(lexicon: Lexicon, tokens: ConceptTokens) -> list[str]:
    return [lexicon.texts[token] for token in tokens.ids]


def test_forms_of_a_word_are_merged_and_fragments_are_no_words(lexicon: Lexicon) -> None:
    forms = lexicon.whole_words["italy"]
    assert {lexicon.texts[token] for token in forms} == {" Italy", "Italy", " italy", "ITALY"}
    assert len({int(lexicon.keys[token]) for token in forms}) == 1
    assert "ital" not in lexicon.whole_words
    assert "ing" not in lexicon.whole_words


def test_a_token_is_paired_with_the_most_frequent_other_form_of_its_word(lexicon: Lexicon) -> None:
    italy, rome, kenya = (lexicon.texts.index(text) for text in (" Italy", "Rome", " Kenya"))
    paired = lexicon.forms(np.array([[italy, rome], [kenya, kenya]]))
    assert [[lexicon.texts[token] for token in row] for row in paired[1]] == [["Italy", " Rome"], [" Kenya", " Kenya"]]
    assert (paired[0] == [[italy, rome], [kenya, kenya]]).all()


def test_texts_without_letters_keep_keys_of_their_own(lexicon: Lexicon) -> None:
    others = [lexicon.texts.index(text) for text in (".", "�", " ", "")]
    assert len({int(lexicon.keys[token]) for token in others}) == 4


def test_log_odds_follow_the_stated_formula() -> None:
    counts = Counter({"italy": 10, "the": 20, "zzzz": 1})
    share = background_frequency("italy")
    smoothed = (10 + 500 * share) / (31 + 500)
    expected = np.log(smoothed / share) / np.sqrt(1 / 10.5 + 1 / (share * 1e9 + 0.5))
    assert log_odds(counts)["italy"] == pytest.approx(expected)
    assert log_odds(counts)["the"] < 3


def test_the_background_is_english_with_shares_that_fall_off() -> None:
    table = background()
    assert len(table) == 60_000
    assert list(table)[:3] == ["the", "to", "and"]
    assert 0.85 < sum(table.values()) < 1
    assert background_frequency("ITALY") == table["italy"]
    assert background_frequency("qqqqqq") == rarest() < min(table.values())


def test_a_text_gives_its_own_words_and_not_those_of_grammar(lexicon: Lexicon) -> None:
    concept = load_concept("italy").model_copy(update={"seeds": ()})
    tokens = concept_tokens(lexicon, concept)
    assert {"italy", "rome", "venice", "naples", "sicily"} <= set(tokens.words)
    assert not {"the", "of", "and", "time", "child"} & set(tokens.words)
    assert list(tokens.z) == sorted(tokens.z, reverse=True)
    assert tokens.source == "text"
    assert "tuscany" in tokens.skipped


def test_seeds_come_first_and_in_the_form_given(lexicon: Lexicon) -> None:
    concept = load_concept("italy").model_copy(update={"seeds": ("Kenya", "italy")})
    tokens = concept_tokens(lexicon, concept)
    assert words_of(lexicon, tokens)[:2] == [" Kenya", " italy"]


def test_the_form_that_the_text_uses_stands_for_the_word(lexicon: Lexicon) -> None:
    concept = from_word("x").model_copy(update={"seeds": (), "text": "ITALY italy italy Rome"})
    assert words_of(lexicon, concept_tokens(lexicon, concept)) == [" italy", " Rome"]


def test_a_bare_name_gives_its_forms_and_nearest_neighbours(lexicon: Lexicon) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(lexicon.keys.size, 12)).astype(np.float32)
    meaning = rng.normal(size=12).astype(np.float32)
    for word in ITALIAN:
        for token in lexicon.whole_words[word.lower()]:
            rows[token] = meaning + 0.2 * rng.normal(size=12)
    tokens = concept_tokens(lexicon, from_word("Italy"), rows)
    assert tokens.words[0] == "italy"
    assert set(tokens.words[:5]) == {word.lower() for word in ITALIAN}
    assert tokens.source == "name"


def test_whitening_finds_neighbours_that_a_shared_direction_hides() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 32)).astype(np.float32)
    rows[1] = rows[0] + 0.1 * rng.normal(size=32)
    rows[:, 7] += 50 * rng.normal(size=500).astype(np.float32)  # says nothing of meaning and dwarfs what does
    rows[:2, 7] = 60, -60
    white = whitened(rows)
    assert np.argsort(-(white @ white[0]))[1] == 1
    assert np.linalg.norm(white, axis=1) == pytest.approx(np.ones(500), abs=1e-5)
    plain = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.argsort(-(plain @ plain[0]))[1] != 1


def test_a_direction_that_no_row_uses_does_no_harm() -> None:
    rows = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    rows[:, 3] = 0
    assert np.isfinite(whitened(rows)).all()
    assert np.isfinite(whitened(np.zeros((5, 3), dtype=np.float32))).all()


def test_a_name_needs_the_heads_rows_and_one_token(lexicon: Lexicon) -> None:
    with pytest.raises(ValueError, match="head's rows"):
        concept_tokens(lexicon, from_word("Italy"))
    with pytest.raises(ValueError, match="not a single token"):
        concept_tokens(lexicon, from_word("Tuscany"), np.ones((lexicon.keys.size, 4), dtype=np.float32))


def test_a_concept_without_a_token_of_the_vocabulary_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the concept's words"):
        concept_tokens(Lexicon(Words((" the", " of"))), load_concept("italy"))


def test_strata_hold_the_token_itself_and_only_its_own_form(lexicon: Lexicon) -> None:
    tokens = concept_tokens(lexicon, load_concept("italy"), limit=3)
    strata = matched_strata(lexicon, tokens, size=6)
    for token, stratum in zip(tokens.ids, strata, strict=True):
        assert stratum[0] == token
        assert len(stratum) == 6
        assert all(lexicon.texts[other][1].isupper() and lexicon.texts[other][0] == " " for other in stratum)


def test_matched_sets_follow_the_corpus_frequency_and_leave_the_concept_out(lexicon: Lexicon) -> None:
    tokens = concept_tokens(lexicon, load_concept("italy"), limit=4)
    strata = matched_strata(lexicon, tokens)
    sets = matched_sets(strata, lexicon, tokens, 50, np.random.default_rng(0))
    assert sets.shape == (50, 4)
    assert {lexicon.texts[token].strip() for token in sets.ravel()} <= {*OTHER, *ITALIAN} - {
        lexicon.texts[token].strip() for token in tokens.ids
    }
    again = matched_sets(strata, lexicon, tokens, 50, np.random.default_rng(0))
    assert (sets == again).all()
