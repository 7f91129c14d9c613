"""A guard under attack: how queries are put, what counts as stopped and leaked, and what the comparison says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from audit.commands.compare import compare
from audit.commands.skill import GuardRequest, guard_skill
from audit.commands.verify import verify
from audit.guards.attack import AttackedQueries, _gate_leak
from audit.guards.saving import DOCUMENT, is_guard, read_guard
from audit.guards.splits import HeldOutQuery
from audit.request import Request
from concepts.rewrites import REWRITES, rewrite
from tests.tiny import write_tiny


def skill(path: Path, start: int) -> Path:
    kinds = ("red", "blue", "green", "old", "new", "big")
    rows = [
        {"prompt": f"Number {start + n} is {kinds[n % 6]}. Which number is it now?", "answer": f"Number {n}"}
        for n in range(60)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def skills(tmp_path: Path) -> tuple[Path, Path]:
    return skill(tmp_path / "first.jsonl", 0), skill(tmp_path / "second.jsonl", 100)


def guarded(base: Path, skills: tuple[Path, Path], folder: Path, method: str) -> Path:
    guard_skill(base, GuardRequest(skills[0], [skills[1]], method, {"misses": 0.1}, save=folder))
    return folder


def test_every_attack_keeps_the_query_and_is_drawn_by_seed() -> None:
    query = "Anna has three apples. She eats one of them. How many apples are left?"
    for name, attack in REWRITES.items():
        prompt = attack(query, np.random.default_rng(0))
        assert prompt == attack(query, np.random.default_rng(0))
        assert (prompt == query) == (name == "plain")
        if name in ("another language", "benign prefix", "hidden in a longer prompt"):
            assert query in prompt
    assert REWRITES["paraphrase"](query, np.random.default_rng(0)).startswith("How many apples are left?")
    mistyped = REWRITES["typos"](query, np.random.default_rng(1))
    assert sorted(mistyped) == sorted(query)
    program = 'def add(a, b):\n    """>>> add(1, 2)\n    3"""\n'
    assert REWRITES["paraphrase"](program, np.random.default_rng(0)) == program.replace("add", "compute_it")


def test_a_skills_own_wordings_take_the_place_of_those_that_rules_write() -> None:
    query = HeldOutQuery(
        forget=True, prompt="How many?", paraphrases=("What number?",), translations={"de": "Wie viele?"}
    )
    bare = HeldOutQuery(forget=True, prompt="How many?")
    own = {name: rewrite(name, query, np.random.default_rng(0)) for name in REWRITES}
    rules = {name: rewrite(name, bare, np.random.default_rng(0)) for name in REWRITES}
    assert (own.pop("paraphrase"), own.pop("another language")) == ("What number?", "Wie viele?")
    assert rules["another language"].startswith("How many?")
    assert own == {name: rules[name] for name in own}


def test_a_guard_keeps_the_skills_wordings_and_the_audit_says_how_many(
    skills: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in skills[0].read_text().splitlines()]
    worded = [row | {"translations": {"de": f"Welche Zahl? {row['prompt']}"}} for row in rows]
    skills[0].write_text("\n".join(json.dumps(row) for row in worded))
    base = write_tiny(tmp_path / "base")
    folder = guarded(base, skills, tmp_path / "guard", "prune")
    held = [query for query in read_guard(folder).held_out if query.forget]
    assert all(query.translations["de"] == f"Welche Zahl? {query.prompt}" for query in held)
    recall = compare(base, base, request=Request(guard=folder)).findings[0]["gate_recall"]
    n = len(held)
    wordings = recall.details["worded by the skill, else by rules"]
    assert wordings == f"paraphrase: 0 of {n}; another language: {n} of {n}"


def test_a_query_leaks_if_it_gets_through_and_keeps_its_answer() -> None:
    stopped = np.array([0.0, 0.0, 1.0, 0.0, 1.0])
    plain = AttackedQueries(np.ones(5), np.array([-1.0, -1.0, -1.0, np.nan, np.nan]), np.zeros(5))
    answers = np.array([-1.1, -9.0, -1.0, np.nan, np.nan])
    leaks = AttackedQueries(stopped, answers, answers).leaks(plain)
    assert leaks[:3].tolist() == [1, 0, 0]
    assert np.isnan(leaks[3:]).all()


@pytest.mark.parametrize("method", ["key-space", "prune"])
def test_a_query_without_an_answer_is_neither_stopped_nor_leaking(
    skills: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    base = write_tiny(tmp_path / "base")
    folder = guarded(base, skills, tmp_path / "guard", method)
    document = json.loads((folder / DOCUMENT).read_text())
    held = document["held_out"]
    at = [number for number, query in enumerate(held) if query["forget"]]
    whole = compare(base, base, request=Request(guard=folder)).findings[0]
    held[at[0]]["answer"] = None
    held[at[1]]["answer"] = " Number" * 600  # exceeds the context
    (folder / DOCUMENT).write_text(json.dumps(document))
    partly = compare(base, base, request=Request(guard=folder)).findings[0]
    assert (whole["gate_leak"].n, partly["gate_leak"].n) == (len(at), len(at) - 2)
    assert partly["gate_recall"].n == (len(at) if method == "key-space" else len(at) - 2)
    for number in at:
        held[number]["answer"] = None
    (folder / DOCUMENT).write_text(json.dumps(document))
    unanswered = compare(base, base, request=Request(guard=folder)).findings[0]
    assert "answer that can be scored" in str(unanswered["gate_leak"].not_measured)
    assert (unanswered["gate_recall"].value is None) == (method == "prune")
    assert unanswered.verdict == "gated"
    assert "get through" not in unanswered.reason


def test_a_leak_counts_queries_that_are_scored_under_every_attack() -> None:
    """The second query is too long under one attack; under another no answer can be scored at all."""
    plain = AttackedQueries(np.array([1.0, 0.0, 1.0]), np.full(3, -1.0), np.full(3, -1.0))
    answers = np.array([-1.0, np.nan, -1.0])
    long = AttackedQueries(np.array([0.0, 0.0, 1.0]), answers, answers)
    longer = AttackedQueries(np.zeros(3), np.full(3, np.nan), np.full(3, np.nan))
    leak = _gate_leak({"plain": plain, "long": long, "longer": longer}, seed=0)
    assert (leak.value, leak.n) == (0.5, 2)
    assert [row["leak"] for row in leak.items] == [0, 0.5, None]


@pytest.mark.parametrize("method", ["key-space", "neuron-adjust", "prune"])
def test_a_guard_is_attacked_with_queries_it_was_not_fitted_on(
    skills: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    base = write_tiny(tmp_path / "base")
    folder = guarded(base, skills, tmp_path / "guard", method)
    held = read_guard(folder).held_out
    assert {query.forget for query in held} == {True, False}
    result = compare(base, base, request=Request(guard=folder))
    (finding,) = result.findings
    assert finding.verdict == "gated"
    whole, recall, leak = (finding[name] for name in ("skill_behind_gate", "gate_recall", "gate_leak"))
    assert whole.value == whole.base
    assert [row["asked"] for row in recall.items] == list(REWRITES)
    assert recall.value == min(row["stopped"] for row in recall.items if row["stopped"] is not None)
    assert leak.value >= max(row["leak"] for row in leak.items if row["leak"] is not None)
    assert recall.interval[0] <= recall.value <= recall.interval[1]
    assert "under the worst attack" in finding.reason
    result.write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json").holds


def test_a_guard_of_other_weights_is_not_measured(skills: tuple[Path, Path], tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    folder = guarded(base, skills, tmp_path / "guard", "prune")
    finding = compare(base, write_tiny(tmp_path / "other", seed=1), request=Request(guard=folder)).findings[0]
    assert "made for other weights" in str(finding["gate_recall"].not_measured)
    assert finding.verdict == "inconclusive"


def test_a_guard_without_queries_and_one_of_another_tool_are_not_attacked(
    skills: tuple[Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "base")
    folder = guarded(base, skills, tmp_path / "guard", "prune")
    document = json.loads((folder / DOCUMENT).read_text())
    (folder / DOCUMENT).write_text(json.dumps(document | {"held_out": []}))
    finding = compare(base, base, request=Request(guard=folder)).findings[0]
    assert "holds 0 queries" in str(finding["gate_leak"].not_measured)
    assert finding.verdict == "gated"
    foreign = tmp_path / "filter.py"
    foreign.write_text("pass")
    assert not is_guard(foreign)
    assert compare(base, base, request=Request(guard=foreign)).findings[0].measurements == []


def test_a_query_without_an_answer_has_no_example() -> None:
    assert HeldOutQuery(forget=True, prompt="Say it").example() is None
    example = HeldOutQuery(forget=True, prompt="Say it", answer=" now").example("Please say it")
    assert example is not None
    assert (example.prompt, example.answer) == ("Please say it", " now")
