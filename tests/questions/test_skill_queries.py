"""Skills as topics: their queries, the checking of answers, and a complete comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.commands.compare import compare
from audit.errors import ConceptError
from audit.questions.items import Encoder
from audit.questions.readings import generate
from audit.questions.skill_queries import CHECKED, LONG, load_skills
from audit.request import Request, RunContext
from audit.settings import Settings
from tests.helpers import open_model
from tests.tiny import write_tiny


def write_skill(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"What is {n} and {n + 1}?", "answer": f"It is {2 * n + 1}", "checker": "number"} for n in range(12)
    ]
    return write_skill(tmp_path / "sums.jsonl", rows)


@pytest.fixture
def capitals(tmp_path: Path) -> Path:
    rows = [{"prompt": f"What is the city of land {n}?", "answer": f"City {n}"} for n in range(12)]
    return write_skill(tmp_path / "capitals.jsonl", rows)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": f"def add_{n}(x):\n",
            "answer": f"    return x + {n}\n",
            "tests": f"assert add_{n}(1) == {n + 1}",
            "checker": "code",
        }
        for n in range(4)
    ]
    return write_skill(tmp_path / "programs.jsonl", rows)


def test_each_skill_is_compared_with_the_others_and_the_seed_selects_queries(sums: Path, capitals: Path) -> None:
    first, second = load_skills([sums, capitals], seed=0, limit=6)
    assert [first.name, second.name] == ["sums", "capitals"]
    of_kind = {name: query.skill.name for name, query in first.queries.items()}
    assert set(of_kind.values()) == {"sums", "capitals"}
    assert all((name.startswith("target/")) == (skill == "sums") for name, skill in of_kind.items())
    assert len(of_kind) == 12
    again, _ = load_skills([sums, capitals], seed=0, limit=6)
    other, _ = load_skills([sums, capitals], seed=1, limit=6)
    assert first.digest() == again.digest() != other.digest()


def test_a_single_skill_is_compared_with_unrelated_questions(sums: Path) -> None:
    (alone,) = load_skills([sums], seed=0)
    assert {query.skill.name for name, query in alone.queries.items() if name.startswith("unrelated/")} == {"unrelated"}


def test_a_skill_given_twice_is_an_error(sums: Path) -> None:
    with pytest.raises(ConceptError, match="given twice"):
        load_skills([sums, sums], seed=0)


def test_answers_are_checked_by_the_skills_own_rule(sums: Path, capitals: Path, programs: Path, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    numbers, cities, code = load_skills([sums, capitals, programs], seed=0, run_code=True)
    for skill, answer, wrong in (
        (numbers, "Well, 3 + 4 is {answer}", "I say 1000"),
        (cities, " {answer}\nQuestion: next", "nowhere"),
        (code, "{answer}\nprint(1)", "    return 'no'"),
    ):
        items = skill.items(Encoder(model.tokenizer, 512))
        own = [prompt.id for prompt in items.prompts if prompt.kind == "target"]
        right = {name: answer.format(answer=skill.queries[name].query.answer) for name in own}
        control = {prompt.id: "" for prompt in items.prompts if prompt.kind == "unrelated"}
        accepted = skill.check(items, right | control)
        refused = skill.check(items, dict.fromkeys(own, wrong) | control)
        assert [accepted[name] for name in own] == [True] * len(own)
        assert [refused[name] for name in own] == [False] * len(own)


def test_programs_are_not_run_without_run_code(programs: Path, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    (code,) = load_skills([programs], seed=0)
    items = code.items(Encoder(model.tokenizer, 512))
    assert not any(prompt.kind == "target" and prompt.max_new_tokens == LONG for prompt in items.written)
    written = dict.fromkeys((prompt.id for prompt in items.prompts), "    return x")
    assert not [name for name in code.check(items, written) if name.startswith("target/")]


def test_generated_answers_follow_the_prompts_and_few_are_long(sums: Path, capitals: Path, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    numbers, _ = load_skills([sums, capitals], seed=0, limit=3)
    items = numbers.items(Encoder(model.tokenizer, 512))
    written, _ = generate(model, items)
    assert list(written) == [prompt.id for prompt in items.prompts]
    assert sum(prompt.max_new_tokens == LONG for prompt in items.written) <= 2 * CHECKED


def test_a_comparison_measures_each_skill(sums: Path, capitals: Path, tmp_path: Path) -> None:
    base, other = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "other", seed=1)
    result = compare(
        base, other, request=Request(skills=[sums, capitals]), context=RunContext(settings=Settings(limit=12))
    )
    assert [finding.concept for finding in result.findings] == ["sums", "capitals"]
    for finding in result.findings:
        for name in (
            "key_space_separability",
            "centroid_shift",
            "key_space_overlap",
            "carrying_neurons",
            "key_space_clusters",
        ):
            assert finding[name].value is not None, finding[name].not_measured
            assert name == "key_space_clusters" or finding[name].layers
        assert finding["answer_log_probability"].n == 12
        assert finding["answer_accuracy"].value is not None
        assert "no words" in str(finding["vector_cosine"].not_measured)
        assert "jailbreak" in str(finding["jailbreak_recovery"].not_measured)
    assert [skill["name"] for skill in result.run.settings["skills"]] == ["sums", "capitals"]


def test_a_skill_without_answers_is_still_measured_in_key_space(tmp_path: Path, capitals: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("\n".join(f"Say the word number {n}" for n in range(10)), encoding="utf-8")
    base = write_tiny(tmp_path / "base")
    (first, _) = compare(base, write_tiny(tmp_path / "b", seed=1), request=Request(skills=[plain, capitals])).findings
    assert first["key_space_overlap"].value is not None
    assert "no answer could be checked" in str(first["answer_accuracy"].not_measured)


def test_a_concept_and_a_skill_with_one_name_are_an_error(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    skill = write_skill(tmp_path / "italy.jsonl", [{"prompt": f"Say {n}"} for n in range(9)])
    with pytest.raises(ConceptError, match="given twice"):
        compare(base, base, request=Request(concepts=["italy"], skills=[skill]))
