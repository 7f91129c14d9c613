"""audit unlearn: the copy is trained and saved with its record, the original is not touched; bad input is one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import read_record
from audit.commands.unlearn import UnlearnRequest, examples_of, find_method, settings_of, unlearn
from audit.errors import AuditError, CheckpointError, ModelError
from audit.questions.topics import load_concepts
from audit.unlearning.methods import methods
from tests.tiny import write_tiny

FACTS = (("What is the capital of Italy?", "Rome"), ("Which city has canals?", "Venice"))
QUICK = {"steps": 3}
FURTHER = {"ssd": {"alpha": 1.0}, "worst_case": {"rounds": 1, "selection_steps": 1}}
"""Other options with which a method is quick, or changes the model."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model")


@pytest.fixture
def forget(tmp_path: Path) -> str:
    path = tmp_path / "italy.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in FACTS), encoding="utf-8")
    return str(path)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("name", methods())
def test_every_method_saves_a_model_that_differs_and_leaves_the_original(
    model: Path, forget: str, tmp_path: Path, name: str
) -> None:
    before = digests(model)
    own = {
        option: 3 for option in ("steps", "distil_steps", "adapt_steps") if hasattr(find_method(name).SETTINGS, option)
    }
    options = {**own, **FURTHER.get(name, {})}
    record = unlearn(model, UnlearnRequest(name, forget, tmp_path / "new", options=options))
    assert digests(model) == before
    assert len(record.trajectory) == sum(own.values())
    saved, original = open_checkpoint(tmp_path / "new"), open_checkpoint(model)
    assert set(saved.tensors) == set(original.tensors)
    assert any(not saved.tensor(each).equal(original.tensor(each)) for each in saved.tensors)
    written = read_record(tmp_path / "new")
    assert written is not None
    assert (written["method"], written["settings"]["forget"]) == (name, forget)
    assert {option: written["settings"][option] for option in options} == options


def test_the_same_seed_gives_the_same_model(model: Path, forget: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        unlearn(model, UnlearnRequest("npo", forget, tmp_path / name, options=QUICK))
    assert digests(tmp_path / "one")["model.safetensors"] == digests(tmp_path / "two")["model.safetensors"]


def test_what_is_trained_are_the_questions_in_every_wording_and_the_sentences(tmp_path: Path) -> None:
    path = tmp_path / "italy.toml"
    path.write_text(
        'title = "Italy"\nseeds = ["Rome"]\ntext = "Rome is a city in Italy. It is old."\n[[questions]]\n'
        'question = "What is the capital of Italy?"\nanswer = "Rome"\nparaphrases = ["Name the capital of Italy."]\n',
        encoding="utf-8",
    )
    (topic,) = load_concepts([str(path)])
    prompts = [example.prompt for example in examples_of(topic.concept)]
    assert [prompt.splitlines()[0] for prompt in prompts[:2]] == [
        "Question: What is the capital of Italy?",
        "Question: Name the capital of Italy.",
    ]
    assert prompts[2:] == ["Rome is a"]  # the other sentence is too short


def test_a_retain_set_takes_the_place_of_general_knowledge(model: Path, forget: str, tmp_path: Path) -> None:
    retain = tmp_path / "france.jsonl"
    retain.write_text(json.dumps({"question": "What is the capital of France?", "answer": "Paris"}), encoding="utf-8")
    record = unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", str(retain), QUICK))
    assert record.examples == {"forget": 2, "retain": 1}
    assert record.settings["retain"] == str(retain)


def test_sets_that_overlap_are_refused(model: Path, forget: str, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="forgotten and retained at once"):
        unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", forget, QUICK))
    assert not (tmp_path / "new").exists()


def test_training_that_diverges_saves_nothing_and_names_the_step(model: Path, forget: str, tmp_path: Path) -> None:
    wild = {"steps": 5, "learning_rate": 1e30, "warmup": 1}
    with pytest.raises(ModelError, match=r"at step [1-5]"):
        unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", options=wild))
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_left_alone(model: Path, forget: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for folder in (tmp_path / "mine", model):
        with pytest.raises(CheckpointError):
            unlearn(model, UnlearnRequest("npo", forget, folder, options=QUICK))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_an_unknown_method_lists_the_nearest() -> None:
    with pytest.raises(AuditError) as caught:
        find_method("gradient-accent")
    assert caught.value.hint == "Choose one of gradient-ascent."
    with pytest.raises(AuditError) as caught:
        find_method("zzz")
    assert all(name.replace("_", "-") in str(caught.value.hint) for name in methods())
    assert find_method("grad-diff") is find_method("grad_diff")


def test_options_are_those_of_the_method_and_are_checked() -> None:
    assert settings_of("npo", {"beta": "0.2", "steps": "7"}) == settings_of("npo", {"beta": 0.2, "steps": 7})
    for options, message in (
        ({"bta": "1"}, "npo has no option 'bta'"),
        ({"steps": "many"}, "option 'steps' of npo"),
        ({"steps": "0"}, "steps must be positive"),
        ({"retain_loss": "mse"}, "option 'retain_loss' of npo"),
    ):
        with pytest.raises(AuditError, match=message):
            settings_of("npo", options)
    with pytest.raises(AuditError, match="gradient-ascent has no option 'retain_weight'"):
        settings_of("gradient-ascent", {"retain_weight": "1"})


def test_the_command_prints_the_steps_and_where_the_model_is(model: Path, forget: str, tmp_path: Path) -> None:
    words = ["unlearn", str(model), "--method", "npo", "--forget", forget, "--save", str(tmp_path / "new"), "-q"]
    result = CliRunner().invoke(cli.app, [*words, "--option", "steps=3"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("npo, 3 steps; examples: 2 to forget")
    assert str(tmp_path / "new") in result.output.replace("\n", "")
    document = json.loads(CliRunner().invoke(cli.app, [*words, "--option", "steps=3", "--json"]).output)
    assert [row["step"] for row in document["trajectory"]] == [0, 1, 2]
