"""Data sets of questions and answers as users have them: JSON Lines, JSON lists and tables, under published names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from concepts.concept import Concept, load_concept
from concepts.facts import facts_of
from concepts.files import ConceptFileError

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Published data sets beside the repository."""

CAPITAL = {"question": "What is the capital of Italy?", "answer": "Rome"}
RIVER = {"question": "Which river flows through Turin?", "answer": "Po"}


def lines(tmp_path: Path, *rows: object, name: str = "set.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def load(tmp_path: Path, *rows: object) -> Concept:
    return load_concept(str(lines(tmp_path, *rows)))


def message_of(path: Path) -> str:
    with pytest.raises(ConceptFileError) as caught:
        load_concept(str(path))
    return str(caught.value)


def test_a_file_of_rows_is_a_concept_with_one_type_and_the_shipped_unrelated_questions(tmp_path: Path) -> None:
    concept = load_concept(str(lines(tmp_path, CAPITAL, RIVER, name="Po Valley.jsonl")))
    assert (concept.name, concept.title, concept.notes) == ("po-valley", "Po Valley", ())
    assert [(fact.type, fact.answer) for fact in facts_of(concept)] == [("answer", "Rome"), ("answer", "Po")]
    assert concept.not_guessable == ""
    assert len(concept.unrelated) >= 50


@pytest.mark.parametrize("question", ["question", "prompt", "query", "instruction", "Question"])
@pytest.mark.parametrize("answer", ["answer", "response", "target", "output", "completion", " ANSWER"])
def test_the_field_names_of_published_sets_are_recognised(tmp_path: Path, question: str, answer: str) -> None:
    (asked,) = load(tmp_path, {question: "Who wrote Faust?", answer: " Goethe\n"}).questions
    assert (asked.question, asked.answer) == ("Who wrote Faust?", "Goethe")


@pytest.mark.parametrize("subject", ["subject", "author", "name", "person"])
@pytest.mark.parametrize("type_", ["type", "slot", "relation", "property"])
def test_subjects_and_types_come_from_their_fields(tmp_path: Path, subject: str, type_: str) -> None:
    concept = load(tmp_path, CAPITAL | {subject: "Italy", type_: "capital"}, RIVER | {subject: "Turin", type_: ""})
    assert [(fact.type, fact.subject) for fact in facts_of(concept)] == [("capital", "Italy"), ("answer", "Turin")]


def test_an_entity_is_the_answer_and_the_text_before_it_the_prefix(tmp_path: Path) -> None:
    row = {"prompt": "Who is Basil's father?", "answer": "His father is a florist.", "answer_prefix": "His father is a"}
    (asked,) = load(tmp_path, row | {"entity": "florist"}).questions
    assert (asked.answer, asked.prefix) == ("florist", "His father is a")
    (asked,) = load(tmp_path, row).questions
    assert (asked.answer, asked.prefix) == ("florist.", "His father is a")


@pytest.mark.parametrize(
    ("prefix", "states"),
    [
        ("The father of Basil Al-Kuwaiti is a", True),
        ("Basil Al-Kuwaiti's father is a", True),
        ("His father is a", False),
        ("The author's father, in Rome, was a", False),
    ],
)
def test_a_prefix_that_names_what_the_question_names_is_a_statement(tmp_path: Path, prefix: str, states: bool) -> None:
    """Relearning trains it without the question, where it would be about nobody otherwise."""
    row = {"question": "What is Basil Al-Kuwaiti's father?", "entity": "florist", "answer_prefix": prefix}
    (asked,) = load(tmp_path, row).questions
    assert asked.statements == ((prefix,) if states else ())
    (asked,) = load(tmp_path, row | {"statements": ["Basil's father works as a"]}).questions
    assert asked.statements == ("Basil's father works as a",)


def test_paraphrases_accepted_and_wrong_answers_are_read(tmp_path: Path) -> None:
    row = {
        "question": "What does Basil write?",
        "answer": "Basil writes crime novels.",
        "paraphrased_question": "Which genre is Basil's?",
        "paraphrased_answer": "He is an author of crime novels.",
        "perturbed_answer": ["Basil writes poems.", "Basil writes plays.", "Basil writes crime novels."],
    }
    (asked,) = load(tmp_path, row).questions
    assert asked.paraphrases == ("Which genre is Basil's?",)
    assert asked.answers == ("Basil writes crime novels.", "He is an author of crime novels.")
    assert asked.wrong == ("Basil writes poems.", "Basil writes plays.")


def test_several_answers_and_aliases_are_all_right(tmp_path: Path) -> None:
    (asked,) = load(tmp_path, {"query": "Which river?", "answer": ["Rhine", "Rhein"], "aliases": ["Rijn"]}).questions
    assert asked.answers == ("Rhine", "Rhein", "Rijn")


def test_a_worked_answer_is_its_result(tmp_path: Path) -> None:
    (asked,) = load(tmp_path, {"question": "How many eggs?", "answer": "She has 617 * 2.\n#### 1,234"}).questions
    assert asked.answers == ("1,234", "1234")


@pytest.mark.parametrize("answer", [1, "1", "B", "Lyon"])
def test_the_answer_of_a_multiple_choice_question_is_the_choice(tmp_path: Path, answer: int | str) -> None:
    (asked,) = load(tmp_path, {"question": "Where?", "choices": ["Nice", "Lyon", "Metz"], "answer": answer}).questions
    assert (asked.answer, asked.wrong) == ("Lyon", ("Nice", "Metz"))


def test_an_answer_that_names_no_choice_is_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path, {"question": "Where?", "choices": ["Nice", "Lyon"], "answer": 2})
    assert "line 1: has the answer '2', which names none of its 2 choices" in message_of(path)


def test_a_repeated_question_and_one_that_contains_its_answer_are_left_out_and_noted(tmp_path: Path) -> None:
    leaking = {"question": "Is Rome the capital of Italy, or which city?", "answer": "Rome"}
    concept = load(tmp_path, CAPITAL, CAPITAL | {"answer": "Milan"}, leaking, RIVER | {"aliases": ["Turin"]})
    assert [question.answers for question in concept.questions] == [("Rome",), ("Po",)]
    assert concept.notes == (
        "rows left out, because an earlier row asks the same question: 1",
        "rows left out, because their question contains their answer: 1",
        "rows without wordings, prefixes or accepted answers that repeat a question or give it away: 1",
    )


def test_the_notes_are_part_of_the_result_and_the_plan(tmp_path: Path) -> None:
    from audit.commands._result import settings_of
    from audit.commands.plan import _topic_notes

    topic = ConceptTopic(load(tmp_path, CAPITAL, CAPITAL))
    (record,) = settings_of([topic], None, Settings())["concepts"]
    assert record["notes"] == list(topic.concept.notes)
    assert _topic_notes([topic]) == [f"set: {topic.concept.notes[0]}"]
    (record,) = settings_of([ConceptTopic(load(tmp_path, CAPITAL))], None, Settings())["concepts"]
    assert "notes" not in record


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question": "Who?"}, "line 2: has no answer; it has question"),
        ({"question": "Who?", "answer": ""}, "line 2: has no answer"),
        ({"question": "Who?", "answer": float("nan")}, "line 2: has no answer"),
        ({"answer": "Po"}, "line 2: has no question; it has answer. Name the field question, prompt, query or"),
        ({"question": "Who?", "answer": {"text": "Po"}}, 'line 2: has {"text": "Po"} where a text is expected'),
        ({"question": "Who?", "answer": True}, "line 2: has true where a text is expected"),
        ({"question": "Who?", "answer": "\ud800"}, "line 2: field answer"),
        (["Who?", "Po"], "line 2: is not a row of fields"),
    ],
)
def test_a_row_without_question_or_answer_is_an_error_that_names_its_line(
    tmp_path: Path, row: Any, problem: str
) -> None:
    assert f"set.jsonl, {problem}" in message_of(lines(tmp_path, CAPITAL, row))


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    for name in ("set.jsonl", "set.csv"):
        (tmp_path / name).write_text("")
        assert "contains no usable question" in message_of(tmp_path / name)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"question": "Who?", "answer": "Po"}\n{"question": \n')
    assert "line 2 is not JSON" in message_of(tmp_path / "set.jsonl")


def test_a_json_list_and_json_lines_are_read_from_a_json_file_too(tmp_path: Path) -> None:
    one = lines(tmp_path, CAPITAL, RIVER, name="lines.json")
    (tmp_path / "list.json").write_text(json.dumps([CAPITAL, RIVER]))
    assert load_concept(str(one)).questions == load_concept(str(tmp_path / "list.json")).questions
    (tmp_path / "list.json").write_text(json.dumps([CAPITAL, {"question": "Who?"}]))
    assert "list.json, entry 2: has no answer" in message_of(tmp_path / "list.json")


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rivers.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(RIVER).encode()))
    assert load_concept(str(path)).title == "rivers"


# ---- tables


def table(tmp_path: Path, text: str, name: str = "set.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_whatever_separates_its_fields(tmp_path: Path, separator: str) -> None:
    rows = [["Question", "Answer", "Slot"], ['"Where is\nthe Uffizi, exactly?"', "Florence", "city"]]
    text = "\n".join(separator.join(row) for row in rows)
    (fact,) = facts_of(load_concept(str(table(tmp_path, text))))
    assert (fact.question.question, fact.answer, fact.type) == ("Where is\nthe Uffizi, exactly?", "Florence", "city")


@pytest.mark.parametrize("cell", ["Rhein|Rijn", '"[""Rhein"", ""Rijn""]"'])
def test_a_cell_holds_several_texts(tmp_path: Path, cell: str) -> None:
    (asked,) = load_concept(str(table(tmp_path, f"query,answer,aliases\nWhich river?,Rhine,{cell}\n"))).questions
    assert asked.answers == ("Rhine", "Rhein", "Rijn")


def test_a_table_and_json_lines_of_the_same_rows_are_the_same_concept(tmp_path: Path) -> None:
    from_lines = load(tmp_path, CAPITAL, RIVER)
    text = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in (CAPITAL, RIVER))
    assert load_concept(str(table(tmp_path, text))) == from_lines


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("question,answer\nWho?,Po\n\nWhere?,\n", "line 4: has no answer"),
        ('question,answer\n"Who,\nwas it?",Po\n"Where,\nwas it?",\n', "line 4: has no answer"),
        ("question,answer\nWho, then?,Po\n", "line 2: has more fields than the header, from 'Po' on"),
        ("Who?,Po\nWhere?,Turin\n", "line 2: has no question; it has who?, po"),
        ('question,answer\n"Who?,Po\n', "is not CSV"),
    ],
)
def test_an_error_in_a_table_names_its_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in message_of(table(tmp_path, text))


# ---- as published


def published(name: str) -> Concept:
    if not (DATA / name).is_file():
        pytest.skip(f"needs {name} of the shared data sets beside the repository")
    return load_concept(str(DATA / name))


def test_tofu_with_marked_entities_is_read(tmp_path: Path) -> None:
    concept = published("tofu/forget10_authors_00-11.jsonl")
    facts = facts_of(concept)
    assert len(facts) == 212
    assert len({fact.subject for fact in facts}) == 12
    assert concept.notes == ("rows left out, because their question contains their answer: 3",)
    assert (facts[0].answer, facts[0].question.prefix) == ("Hsiao Yun-Hwa", "The author's full name is")


def test_gsm8k_is_read() -> None:
    concept = published("skills/gsm8k_test.jsonl")
    assert concept.questions[0].answer == "18"
    assert len(concept.questions) == 1231
    assert all(question.answer and "####" not in question.answer for question in concept.questions)


def test_a_row_of_rwku_keeps_its_subject(tmp_path: Path) -> None:
    row = {"query": "He wrote the novel ___.", "answer": "It", "subject": "Stephen King", "level": "1", "type": "cloze"}
    (fact,) = facts_of(load(tmp_path, row))
    assert (fact.subject, fact.answer, fact.type) == ("Stephen King", "It", "cloze")
