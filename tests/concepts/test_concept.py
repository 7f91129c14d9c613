from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from concepts.concept import Concept, Question, from_word, load_concept, shipped_unrelated
from concepts.files import MAX_BYTES, ConceptFileError, slug
from concepts.prompts import mentions

MINIMAL = 'title = "Rivers"\nseeds = ["river"]\n'
QUESTION = '[[questions]]\nquestion = "Which river flows through {0}?"\nanswer = "River of {1}"\n'
GROUP = (
    '[[groups]]\nname = "g"\nquestion = "What is the capital of {}?"\nabout = ["Italy"]\n'
    '[groups.answers]\nItaly = "Rome"\nFrance = "Paris"\nSpain = "Madrid"\n'
)
ENTRY: dict[str, Any] = {
    "Concept": "Italy",
    "Layer": 25,
    "Dim": 7966,
    "QA": [" What is the capital city of Italy?\n", " Which sea is near?\n", " Which sea is near?\n"],
    "text_completion": [{"First_half": "Rome is", "Second_half": "the capital"}],
    "unrelated_QA": ["What is rust?\n"],
    "wikipedia_content": "Italy is a country.",
}


def write(tmp_path: Path, text: str | bytes, name: str = "rivers.toml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def message_of(path: Path | str) -> str:
    with pytest.raises(ConceptFileError) as caught:
        load_concept(str(path))
    return str(caught.value)


def test_a_toml_file_is_read_with_its_own_name(tmp_path: Path) -> None:
    concept = load_concept(str(write(tmp_path, MINIMAL + QUESTION.format("Rome", "tears") + GROUP)))
    assert (concept.name, concept.title, concept.seeds) == ("rivers", "Rivers", ("river",))
    assert concept.questions[0].answers == ("River of tears",)
    assert concept.groups[0].ask("France") == "What is the capital of France?"


def test_a_concept_cannot_be_changed(tmp_path: Path) -> None:
    concept = load_concept(str(write(tmp_path, MINIMAL)))
    with pytest.raises(ValueError):
        concept.title = "Lakes"


def test_an_unknown_name_suggests_the_nearest_and_lists_the_library() -> None:
    message = message_of("Itly")
    assert "did you mean italy" in message
    assert "music" in message


def test_a_missing_file_is_named() -> None:
    assert message_of("no/such.toml").startswith("no/such.toml: cannot be read")


def test_broken_toml_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "seeds = oops\n")
    assert "line 3" in message_of(path)
    assert str(path) in message_of(path)


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        (MINIMAL + "colour = 3\n", "colour", "Fields are answered_by, completions, examples"),
        ('title = "R"\nseeds = "river"\n', "seeds", "tuple"),
        (MINIMAL + '[[questions]]\nquestion = ""\n', "questions.0.question", "at least 1"),
        (MINIMAL + '[[questions]]\nquestion = "a?"\nanser = "b"\n', "questions.0.anser", "not permitted"),
        ('title = "R"\n', "", "nothing to measure"),
        ('title = "R"\nseeds = ["a", "A"]\n', "seeds", "2 times"),
        (MINIMAL + 2 * QUESTION.format("Rome", "tears"), "", "2 times"),
        (MINIMAL + 2 * GROUP, "", "2 times"),
        (MINIMAL + GROUP.replace("{}", "it"), "groups.0", "{}"),
        (MINIMAL + GROUP.replace('["Italy"]', '["Itly"]'), "groups.0", "did you mean"),
        (MINIMAL + GROUP.replace('["Italy"]', "[]"), "groups.0.about", "at least 1"),
        (MINIMAL + GROUP.replace('"Paris"', '"rome"'), "groups.0", "2 times"),
        (MINIMAL + GROUP.replace('Spain = "Madrid"\n', ""), "groups.0", "too few"),
        (MINIMAL + GROUP.replace('"Rome"', '"Italy"'), "groups.0", "own question"),
        ('name = "x"\n' + MINIMAL, "name", "named after its file"),
        (MINIMAL + "[[vectors]]\nlayer = -1\nneuron = 0\n", "vectors.0.layer", "greater than or equal to 0"),
        (MINIMAL + "[[vectors]]\nlayer = 1\nneuron = 0\nsign = 2\n", "vectors.0.sign", "1 or -1"),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(tmp_path: Path, text: str, field: str, reason: str) -> None:
    message = message_of(write(tmp_path, text))
    assert "rivers.toml" in message
    assert field in message
    assert reason in message


@pytest.mark.parametrize("answer", ["Rome", "the rome", "ROME"])
def test_an_answer_inside_its_own_question_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match="own question"):
        Question(question="Which river flows through Rome?", answer=answer)
    with pytest.raises(ValueError, match="own question"):
        Question(question="Which city?", paraphrases=("Is it Rome, the city?",), answer=answer)
    with pytest.raises(ValueError, match="own question"):
        Question(question="Which city is on the Tiber, is it Rome?", answer="Roma", accept=(answer,))


def test_an_answer_that_is_part_of_a_word_of_the_question_is_fine() -> None:
    assert Question(question="Who writes in Romeo?", answer="Rome").answers == ("Rome",)


def test_answers_are_recognised_as_whole_words_in_any_case_and_punctuation() -> None:
    question = Question(question="Which river?", answer="Tiber", accept=("Tevere",))
    assert question.answered_in(" The river TIBER, of course.")
    assert question.answered_in("Tevere")
    assert not question.answered_in("Tiberius")
    assert not question.answered_in("")


def test_a_question_without_an_answer_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="no answer"):
        Question(question="Which river?").answered_in("Tiber")


def test_few_questions_are_allowed_but_flagged(tmp_path: Path) -> None:
    questions = [QUESTION.format(f"town {n}", f"region {n}x") for n in range(5)]
    assert load_concept(str(write(tmp_path, MINIMAL + "".join(questions[:4])))).few_questions
    assert not load_concept(str(write(tmp_path, MINIMAL + "".join(questions)))).few_questions


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert load_concept(str(write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode()))).title == "Rivers"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    message = message_of(write(tmp_path, mark + MINIMAL.encode(encoding)))
    assert "UTF-" in message
    assert "Save it as UTF-8" in message


def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path: Path) -> None:
    assert "line 3 is not UTF-8" in message_of(write(tmp_path, MINIMAL.encode() + 'text = "café"\n'.encode("latin-1")))


def test_a_file_larger_than_any_concept_is_an_error_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "at most 16,777,216 bytes" in message_of(path)


def test_the_shipped_unrelated_questions_are_used_without_those_about_the_concept(tmp_path: Path) -> None:
    concept = load_concept(str(write(tmp_path, 'title = "Japan"\nseeds = ["Japan", "Tokyo"]\n')))
    assert len(concept.unrelated) >= 50
    assert any(mentions(question.question, ["Japan"]) for question in shipped_unrelated())
    assert not any(mentions(question.question, ["Japan", "Tokyo"]) for question in concept.unrelated)


def test_unrelated_questions_of_the_file_are_kept_as_they_are(tmp_path: Path) -> None:
    own = '[[unrelated]]\nquestion = "What is rust?"\n'
    assert len(load_concept(str(write(tmp_path, MINIMAL + own))).unrelated) == 1


def test_an_article_is_a_concept(tmp_path: Path) -> None:
    concept = load_concept(str(write(tmp_path, "Baseball is a game.", "Base Ball.txt")))
    assert (concept.name, concept.title, concept.text) == ("base-ball", "Base Ball", "Baseball is a game.")
    assert "no text" in message_of(write(tmp_path, " \n", "empty.txt"))


def test_conceptvectors_json_is_read_as_it_is(tmp_path: Path) -> None:
    other = {**ENTRY, "Concept": "Ancient Rome"}
    path = write(tmp_path, json.dumps([ENTRY, other, {**ENTRY, "Layer": 3, "Dim": 4, "id": 9}]), "dev.json")
    concept = load_concept(f"{path}#Italy")
    assert (concept.name, concept.title, concept.seeds) == ("italy", "Italy", ("Italy",))
    assert [(vector.layer, vector.neuron) for vector in concept.vectors] == [(25, 7966), (3, 4)]
    assert [question.question for question in concept.questions] == [
        "What is the capital city of Italy?",
        "Which sea is near?",
    ]
    assert all(question.answer is None for question in concept.questions)
    assert [question.question for question in concept.unrelated] == ["What is rust?"]
    assert concept.completions[0].second == "the capital"
    assert concept.text == "Italy is a country."


def test_conceptvectors_json_needs_the_name_of_a_concept_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([ENTRY]), "dev.json")
    for missing in (path, f"{path}#Rome"):
        message = message_of(missing)
        assert "Italy" in message
        assert f"{path}#NAME" in message


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"Concept": "Italy"}]', "[" * 100_000])
def test_other_json_is_an_error_with_its_file(tmp_path: Path, content: str) -> None:
    assert "dev.json" in message_of(f"{write(tmp_path, content, 'dev.json')}#Italy")


def test_a_word_is_a_concept_of_its_own() -> None:
    assert from_word("Baseball").seeds == ("Baseball",)
    with pytest.raises(ConceptFileError):
        from_word("!?")


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("Italy", "italy"),
        ("São Paulo", "sao-paulo"),
        ("../../etc/passwd", "etc-passwd"),
        ("Role-playing game", "role-playing-game"),
    ],
)
def test_a_slug_is_a_safe_file_name(name: str, file_name: str) -> None:
    assert slug(name) == file_name


def test_slugs_of_names_that_lose_letters_stay_apart() -> None:
    assert slug("東京") != slug("大阪")
    assert slug("a" * 61) != slug("a" * 62)
    for name in ("東京", "a" * 500, "\ud800", "...", "", "A\x00b"):
        assert slug(name)
        assert len(slug(name)) <= 60
        assert set(slug(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_concept_is_equal_to_itself_read_twice() -> None:
    assert load_concept("italy") == load_concept("italy")
    assert isinstance(load_concept("italy"), Concept)
