"""The whole way of a guard that is fitted to facts, on a tiny model that was taught them: fit, save, use, audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from audit.commands.compare import compare
from audit.commands.unlearn import UnlearnRequest, unlearn
from audit.errors import AuditError, CheckpointError
from audit.guards import load_guard, read_guard
from audit.guards.facts import fact_skills
from audit.guards.saving import digest
from audit.models.editable import open_editable
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import score
from audit.request import Request
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from concepts.concept import load_concept
from concepts.prompts import ASK
from tests.helpers import greedy_tokens, open_model
from tests.tiny import write_tiny

KINDS = ("old", "new", "big", "small", "first", "last")
FORGET = [
    (f"What is the {kind} capital of {place}?", city)
    for place, city in (("Italy", "Rome"), ("France", "Paris"), ("Spain", "Lyon"))
    for kind in KINDS
]
RETAIN = [
    (f"Which {kind} animal is a young {animal}?", name)
    for animal, name in (("dog", "puppy"), ("cat", "kitten"), ("cow", "calf"))
    for kind in KINDS
]
METHODS: dict[str, dict[str, Any]] = {"eco": {}, "o3": {"rank": 4, "steps": 60, "learning_rate": 5e-3}}
"""Method -> options that suit the tiny model."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the facts, in ``base``, the facts to forget, and those to retain."""
    folder = tmp_path_factory.mktemp("facts")
    for name, facts in (("capitals", FORGET), ("animals", RETAIN)):
        rows = [json.dumps({"question": question, "answer": answer}) for question, answer in facts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    editable = open_editable(write_tiny(folder / "raw", max_position_embeddings=512))
    for _ in fine_tune(editable.model, [*examples(FORGET), *examples(RETAIN)], [80], FineTuning(2e-2)):
        pass
    editable.save(folder / "base", {})
    assert score(open_model(folder / "base"), examples([*FORGET, *RETAIN])).exact.all()
    return folder


def examples(facts: Sequence[tuple[str, str]]) -> list[Example]:
    return [Example(ASK.replace("{}", question), f" {answer}") for question, answer in facts]


def guarded(folder: Path, target: Path, method: str, **options: Any) -> Path:
    request = UnlearnRequest(
        method, str(folder / "capitals.jsonl"), target, str(folder / "animals.jsonl"), METHODS.get(method, {}) | options
    )
    unlearn(folder / "base", request)
    return target


def answered(model: RunningModel, facts: Sequence[tuple[str, str]]) -> list[bool]:
    """Which questions get their right answer, by greedy generation."""
    written = greedy_tokens(model, [example.prompt for example in examples(facts)])
    return [
        model.tokenizer.decode(tokens).startswith(f" {answer}")
        for tokens, (_, answer) in zip(written, facts, strict=True)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_flagged_questions_are_not_answered_others_are_and_the_verdict_is_gated(
    method: str, folder: Path, tmp_path: Path
) -> None:
    guard = guarded(folder, tmp_path / "guard", method)
    model = open_model(folder / "base")
    before, weights = answered(model, [*FORGET, *RETAIN]), digest(model.model)
    assert all(before)
    with load_guard(model.model, guard):
        forget, retain = answered(model, FORGET), answered(model, RETAIN)
    assert sum(forget) <= 2
    assert all(retain)
    assert answered(model, [*FORGET, *RETAIN]) == before
    assert digest(model.model) == weights

    request = Request(concepts=(str(folder / "capitals.jsonl"),), guard=guard)
    facts, attacked = compare(folder / "base", folder / "base", request=request).findings
    assert (facts.concept, facts.verdict) == ("capitals", "gated")
    assert attacked.verdict == "gated"
    assert attacked["gate_recall"].plain >= 0.8
    assert attacked["gate_recall"].items[0]["others_stopped"] == 0
    assert attacked["skill_behind_gate"].value == attacked["skill_behind_gate"].base > -0.1
    assert attacked["gate_leak"].value is not None


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_holds_no_code_and_is_refused_where_it_is_damaged(
    method: str, folder: Path, tmp_path: Path
) -> None:
    guard = guarded(folder, tmp_path / "guard", method)
    assert sorted(file.name for file in guard.iterdir()) == ["guard.json", "guard.safetensors"]
    held = read_guard(guard).held_out
    assert {query.form for query in held} == {ASK}
    assert {query.prompt for query in held if query.forget} <= {question for question, _ in FORGET}
    document = json.loads((guard / "guard.json").read_text())
    for change in ({"settings": {}}, {"sites": document["sites"] | {"d_mlp": 7}}):
        (guard / "guard.json").write_text(json.dumps(document | change))
        with pytest.raises(CheckpointError):
            load_guard(open_model(folder / "base").model, guard)


def test_the_command_fits_a_guard_by_name_and_says_where_it_is(folder: Path, tmp_path: Path) -> None:
    words = ["unlearn", str(folder / "base"), "--method", "eco", "--forget", str(folder / "capitals.jsonl")]
    given = [*words, "--save", str(tmp_path / "guard"), "--option", "steps=2", "--option", "layers=1", "-q"]
    shown = CliRunner().invoke(cli.app, given)
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("eco, 2 steps; examples: 18 to forget")
    assert "Guard:" in shown.output
    assert read_guard(tmp_path / "guard").guard.layers.tolist() == [1]  # type: ignore[attr-defined]


def test_a_model_with_alibi_can_be_guarded_by_eco(folder: Path, tmp_path: Path) -> None:
    bloom = write_tiny(tmp_path / "bloom", "bloom")
    request = UnlearnRequest(
        "eco", str(folder / "capitals.jsonl"), tmp_path / "guard", str(folder / "animals.jsonl"), {"steps": 1}
    )
    assert len(unlearn(bloom, request).trajectory) == 1
    finding = compare(bloom, bloom, request=Request(guard=tmp_path / "guard")).findings[0]
    assert finding.verdict == "gated"
    assert finding["gate_recall"].value is not None


def test_general_knowledge_is_left_alone_by_default() -> None:
    forget, retain = fact_skills(load_concept("italy"))
    assert (forget.title, retain.title) == ("Italy", "general knowledge")
    assert len(retain.queries) > 40
    assert not any("Italy" in query.prompt for query in retain.queries)
    assert {paraphrase for query in forget.queries for paraphrase in query.paraphrases}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "eco", "options": {"sharpness": "1"}}, "eco has no option 'sharpness'"),
        ({"method": "eco", "options": {"layers": "one"}}, "option 'layers' of eco"),
        ({"method": "eco", "options": {"layers": "9"}}, "^layers names 9"),
        ({"method": "eko"}, "no method 'eko'"),
        ({"method": "eco", "retain": "capitals.jsonl"}, "18 queries of capitals are among those to forget"),
        ({"method": "eco", "forget": "few.jsonl"}, "few has 1 different queries"),
        ({"method": "eco", "forget": "story.txt"}, "has no question with an answer"),
    ],
)
def test_a_wrong_request_is_one_line(given: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    (folder / "few.jsonl").write_text(json.dumps({"question": "Who wrote Hamlet?", "answer": "Shakespeare"}))
    (folder / "story.txt").write_text("Rome is a city in Italy. It has many old houses and a river.")
    files = {name: str(folder / given[name]) for name in ("forget", "retain") if name in given}
    request = UnlearnRequest(
        given["method"],
        files.get("forget", str(folder / "capitals.jsonl")),
        tmp_path / "guard",
        files.get("retain"),
        given.get("options", {}),
    )
    with pytest.raises(AuditError, match=message):
        unlearn(folder / "base", request)
    assert not (tmp_path / "guard").exists()


def test_a_guard_scores_unflagged_answers_as_the_model_does(folder: Path, tmp_path: Path) -> None:
    saved = read_guard(guarded(folder, tmp_path / "guard", "eco"))
    model = open_model(folder / "base")
    animals = examples(RETAIN)
    plain = saved.guard.score(model, animals)
    with load_guard(model.model, tmp_path / "guard"):
        on = saved.guard.score(model, animals)
    assert (plain.means == on.means).all()
    assert torch.allclose(torch.tensor(plain.means), torch.tensor(score(model, animals).means), atol=1e-5)
