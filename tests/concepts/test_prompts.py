from __future__ import annotations

import pytest

from concepts.prompts import (
    SENTENCES,
    SHOTS,
    answer_text,
    cut,
    few_shot,
    in_sentences,
    mentions,
    normalise,
    prefix,
    states,
)


def test_the_prompt_ends_where_the_answer_begins() -> None:
    prompt = few_shot("  What is the capital of Italy?\n")
    assert prompt.endswith("\n\nQuestion: What is the capital of Italy?\nAnswer:")
    assert prompt.count("Question:") == 4


def test_all_questions_of_a_concept_share_one_prefix() -> None:
    avoid = ["ocean", "plants"]
    assert few_shot("One?", avoid).startswith(prefix(avoid))
    assert few_shot("Two?", avoid).startswith(prefix(avoid))


@pytest.mark.parametrize(("word", "lost"), [("Ocean", 0), ("william shakespeare", 1), ("Hamlet", 1), ("plants", 2)])
def test_an_example_that_mentions_the_concept_is_replaced(word: str, lost: int) -> None:
    prompt = few_shot("Why?", [word])
    assert SHOTS[lost][0] not in prompt
    assert prompt.count("Question:") == 4
    assert all(question in prompt for index, (question, _) in enumerate(SHOTS) if index != lost)


def test_part_of_a_word_is_no_mention() -> None:
    assert few_shot("Why?", ["plan", "ham", "cean"]) == few_shot("Why?")


def test_questions_that_take_a_sentence_come_after_answers_in_a_sentence() -> None:
    prompt = in_sentences(" Why? ", ["bicycle", "bread"])
    assert prompt.endswith("\n\nQuestion: Why?\nAnswer:")
    assert prompt.count("Question:") == 4
    assert [shot in prompt for shot, _ in SENTENCES] == [False, True, False]


def test_running_out_of_examples_is_an_error() -> None:
    with pytest.raises(ValueError, match="every example"):
        few_shot("Why?", ["what", "who", "how", "which"])


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        (" Rome\n\nQuestion: What", "Rome"),
        (" Rome Question: What", "Rome"),
        ("\n\nRome\nis", "Rome"),
        (" Rome.\r\n", "Rome."),
        ("", ""),
        ("\n", ""),
    ],
)
def test_the_answer_is_cut_at_the_first_line_end_or_question(generated: str, answer: str) -> None:
    assert cut(generated) == answer


def test_an_answer_follows_its_prompt_by_one_space() -> None:
    assert answer_text(" Rome ") == " Rome"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Tiber.", "tiber"),
        ("A  puppy!", "puppy"),
        ("Mars' moon", "mars moon"),
        ("Notre-Dame", "notre dame"),
        ("", ""),
    ],
)
def test_normalised_answers_lose_case_articles_and_punctuation(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_an_answer_that_is_an_article_only_stays_comparable() -> None:
    assert normalise("A") == "a"
    assert mentions("A", ["a"])
    assert not mentions("B", ["a"])


@pytest.mark.parametrize(
    "text",
    [
        "Rome",
        "rome.",
        "The answer is: Rome",
        "Not Milan but Rome",
        "It isn't Milan, it's Rome.",
        "Milan is not the capital; Rome is",
        "Not only Rome, but also Milan",
        "Rome is not only the capital but the largest city",
        "I am not sure. Rome",
        "No, Rome",
        "Milan? Not so: Rome",
        "Rome instead of Milan",
        "Rome rather than Milan",
        "Not Rome? Yes, Rome.",
        "None other than Rome",
        "Rome is the capital. It is not Milan",
    ],
)
def test_an_answer_is_stated(text: str) -> None:
    assert states(text, ["Milano", "Rome"])


@pytest.mark.parametrize(
    "text",
    [
        "Milan",
        "Not Rome but Milan",
        "It is not Rome",
        "It's Milan, not Rome",
        "It isn't Rome, it's Milan.",
        "It isn’t Rome",
        "Rome isn't the capital",
        "Rome is not the capital; Milan is",
        "Milan rather than Rome",
        "Milan instead of Rome",
        "Milan, instead of the Rome of old",
        "Any city other than Rome",
        "Anything but Rome",
        "Never Rome",
        "Neither Rome nor Milan",
        "Neither Milan nor Rome",
        "Not in Rome",
        "Not called Rome",
        "Rome is wrong",
        "Romeo",
        "",
    ],
)
def test_a_negated_answer_is_not_stated(text: str) -> None:
    assert not states(text, ["Rome"])


@pytest.mark.parametrize(
    ("text", "answer"), [("Washington, D.C.", "Washington D.C."), ("The Tiber", "the Tiber"), ("3.14", "3.14")]
)
def test_an_answer_of_several_words_is_found_over_punctuation(text: str, answer: str) -> None:
    assert states(text, [answer])
    assert not states(f"not {text}", [answer])


@pytest.mark.parametrize("answer", ["", "?!"])
def test_an_answer_without_words_is_never_stated(answer: str) -> None:
    assert not states("Rome", [answer])
