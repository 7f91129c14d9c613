"""Skills: what is read from each layout, how answers are checked, and how queries are split."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from concepts.files import MAX_BYTES, ConceptFileError
from concepts.skill import Query, Skill, chosen_letter, is_right, last_number, load_skill, split

HUMANEVAL = {"task_id": "0", "prompt": "def one():\n", "test": "def check(f): assert f() == 1", "entry_point": "one"}


def written(path: Path, *entries: Any) -> Path:
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    return path


def many(count: int) -> Skill:
    return Skill(name="s", title="s", queries=tuple(Query(prompt=f"query {number}") for number in range(count)))


def test_gsm8k_is_checked_by_its_final_number(tmp_path: Path) -> None:
    skill = load_skill(written(tmp_path / "m.jsonl", {"question": "How much?", "answer": "2 * 9 = 18\n#### 1,018"}))
    assert skill.checker == "number"
    assert is_right(skill, skill.queries[0], "It makes $1018.00.")
    assert not is_right(skill, skill.queries[0], "1018, or rather 18")


def test_packed_humaneval_calls_its_own_check(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode()))
    skill = load_skill(path)
    assert (skill.name, skill.checker) == ("h", "code")
    assert skill.queries[0].tests.endswith("check(one)\n")
    with pytest.raises(ValueError, match="run them"):
        is_right(skill, skill.queries[0], "    return 1")


def test_mbpp_joins_its_tests(tmp_path: Path) -> None:
    entry = {"text": "Write one.", "code": "def one(): ...", "test_list": ["assert 1", "assert 2"]}
    assert load_skill(written(tmp_path / "m.jsonl", entry)).queries[0].tests == "assert 1\nassert 2"


def test_squad_gives_questions_with_every_accepted_answer(tmp_path: Path) -> None:
    item = {"question": "Wer?", "answers": [{"text": "Anna"}, {"text": "die Anna"}]}
    skill = load_skill(written(tmp_path / "x.json", {"data": [{"paragraphs": [{"context": "", "qas": [item]}]}]}))
    assert is_right(skill, skill.queries[0], "Die Anna.")
    assert not is_right(skill, skill.queries[0], "Otto")


def test_own_forms_and_plain_text_give_their_prompts(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('title = "S"\nchecker = "number"\n[[queries]]\nprompt = "1+1"\nanswer = "2"\n')
    (tmp_path / "s.txt").write_text("one\n\n two \n")
    choice = {"prompt": "Which?", "choices": ["x", "y"], "answer": "B", "checker": "choice"}
    assert load_skill(tmp_path / "s.toml").checker == "number"
    assert [query.prompt for query in load_skill(tmp_path / "s.txt").queries] == ["one", "two"]
    skill = load_skill(written(tmp_path / "c.jsonl", choice))
    assert is_right(skill, skill.queries[0], "(B) y")
    assert not is_right(skill, skill.queries[0], "(A) x")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"x": 1}], "no known layout"),
        ([{"prompt": "a"}, {"answer": "b"}], "line 2 has no field prompt, which the tool's own layout requires"),
        ([{"prompt": "a"}, {"prompt": ""}], "line 2, field prompt"),
        ([{"prompt": "a", "checker": "choice", "answer": "C", "choices": ["x"]}], "not the letter"),
        ([{"question": "a", "answer": "none"}], "contains no number"),
        ([{"prompt": "a"}, 3], "line 2 has no field prompt"),
        ([{"data": [{"paragraphs": [{"qas": [{"question": "?"}]}]}]}], "query 0 does not have the layout of SQuAD"),
    ],
)
def test_a_broken_file_is_one_error_with_its_place(tmp_path: Path, entries: list[Any], said: str) -> None:
    path = written(tmp_path / "bad.jsonl", *entries)
    with pytest.raises(ConceptFileError, match=said) as caught:
        load_skill(path)
    assert caught.value.where == str(path)


def test_a_packed_file_that_unpacks_too_large_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (MAX_BYTES + 1)))
    with pytest.raises(ConceptFileError, match="unpacks to more than"):
        load_skill(path)


def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}" * 500)[:-9])
    with pytest.raises(ConceptFileError, match="cannot be unpacked"):
        load_skill(path)


@pytest.mark.parametrize(
    ("text", "number"), [("#### 5 eggs of 9", 5), ("a 1, then -2.50", -2.5), ("1,000.", 1000), ("none", None)]
)
def test_the_final_number_of_a_text(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"), [("B", "B"), ("(C) x", "C"), ("The answer is D", "D"), ("A dog barks", None), ("", None)]
)
def test_a_letter_counts_as_chosen_only_where_it_is_one_by_itself(text: str, letter: str | None) -> None:
    assert chosen_letter(text) == letter


def test_splits_are_disjoint_complete_and_fixed_by_the_seed() -> None:
    skill = many(100)
    parts = split(skill, 1)
    assert sorted((*parts.fit, *parts.choose, *parts.report)) == list(range(100))
    assert {len(parts.fit), len(parts.choose), len(parts.report)} == {33, 34}
    assert parts == split(skill, 1) != split(skill, 2)


def test_the_same_prompt_twice_is_never_on_two_sides() -> None:
    twice = many(30).model_copy(update={"queries": (*many(30).queries, *many(30).queries)})
    parts = split(twice)
    assert all(
        {index % 30 for index in one} & {index % 30 for index in two} == set()
        for one, two in ((parts.fit, parts.report), (parts.choose, parts.report), (parts.fit, parts.choose))
    )
