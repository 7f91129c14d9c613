"""The facts of the concepts that ship: enough of each type, told apart by their answers, and not guessable."""

from __future__ import annotations

from collections import Counter

import pytest

from concepts.concept import Question, library, load_concept
from concepts.facts import Fact, facts_of
from concepts.prompts import normalise
from tests.concepts.surface import p_values

MOST_COMMON = {
    "the",
    "a",
    "of",
    "in",
    "is",
    "was",
    "which",
    "what",
    "who",
    "did",
    "does",
    "do",
    "and",
    "to",
    "by",
    "on",
}


def typed(name: str) -> list[Fact]:
    return [fact for fact in facts_of(load_concept(name)) if fact.type is not None]


@pytest.mark.parametrize("name", library())
def test_a_concept_has_at_least_8_facts_that_share_a_type_with_others(name: str) -> None:
    sizes = Counter(fact.type for fact in typed(name))
    assert sum(size for size in sizes.values() if size >= 2) >= 8
    assert sum(size for size in sizes.values() if size >= 4) >= 8


@pytest.mark.parametrize("name", library())
def test_different_answers_of_one_type_begin_with_different_words(name: str) -> None:
    answers = {(fact.type, normalise(fact.answer)) for fact in typed(name)}
    shared = Counter((type_, text.split()[0]) for type_, text in answers)
    assert {key for key, count in shared.items() if count > 1} == set()


@pytest.mark.parametrize("name", library())
def test_two_wordings_of_one_fact_have_one_subject(name: str) -> None:
    """Otherwise one wording could be trained and the other read."""
    facts = typed(name)
    for index, fact in enumerate(facts):
        for other in facts[:index]:
            if normalise(fact.answer) == normalise(other.answer) and fact.subject != other.subject:
                words, others = (set(normalise(each.question.question).split()) - MOST_COMMON for each in (fact, other))
                alike = len(words & others) / len(words | others)
                assert alike <= 0.6, (fact.question.question, other.question.question)


@pytest.mark.parametrize("name", library())
def test_the_author_says_in_one_sentence_why_the_answers_cannot_be_guessed(name: str) -> None:
    reason = load_concept(name).not_guessable
    assert len(reason.split()) >= 8
    assert reason.endswith(".")
    assert reason.count(".") == 1


# ---- guessing from the surface


def test_the_wording_of_the_questions_does_not_tell_their_answers() -> None:
    """Over the whole library, and in each concept with Holm's correction (here: no p-value below 0.05 / 25)."""
    facts = {name: typed(name) for name in library()}
    p = p_values(facts)
    assert p.pop("library") > 0.05
    assert min(p.values()) > 0.05 / len(p), p


def planted(pairs: dict[str, str]) -> list[Fact]:
    return [Fact("type", ask, Question(question=ask, answer=answer)) for ask, answer in pairs.items()]


CITIES = ["Rouen", "Leeds", "Porto", "Essen", "Turin", "Malmo", "Gdansk", "Bergen", "Ghent", "Basel", "Graz", "Brno"]


def test_answers_that_look_like_their_questions_are_found() -> None:
    nations = ["Italy", "Russia", "Persia", "Norway", "Canada", "Egypt", "Brazil", "Peru", "Chile", "Angola"]
    people = ["Italians", "Russians", "Persians", "Norwegians", "Canadians", "Egyptians", "Brazilians", "Peruvians"]
    facts = planted({f"Who lives in {nation}?": each for nation, each in zip(nations, people, strict=False)})
    assert p_values({"planted": facts}, draws=999)["planted"] < 0.01


def test_answers_that_other_subjects_give_away_are_found() -> None:
    facts = planted(
        {
            f"Who ruled {city} with the {'sword' if at % 2 else 'book'}?": ["Bishop", "King"][at % 2]
            for at, city in enumerate(CITIES)
        }
    )
    assert p_values({"planted": facts}, draws=999)["planted"] < 0.01


def test_answers_that_do_not_follow_are_not_found() -> None:
    saints = ["Anna", "Clara", "Olav", "Hugo", "Felix", "Ivo", "Lukas", "Paula", "Simon", "Vitus", "Wanda", "Zita"]
    facts = planted({f"Who is the saint of {city}?": saint for city, saint in zip(CITIES, saints, strict=True)})
    assert p_values({"planted": facts}, draws=999)["planted"] > 0.05
