"""audit unlearn: the copy is trained and saved with its record, the original is not touched; bad input is one line."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

import cli
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import read_record, require_room
from audit.commands.unlearn import UnlearnRequest, examples_of, find_method, settings_of, unlearn
from audit.errors import AuditError, CheckpointError, ModelError
from audit.models.packing import Example
from audit.questions.topics import load_concepts
from audit.request import RunContext
from audit.unlearning import training_examples
from audit.unlearning.methods import methods
from audit.unlearning.objective import Objective
from audit.unlearning.training import Record, refuse_overlap
from reports.text import render_unlearning
from tests.helpers import Log, needed_options
from tests.tiny import edit, edit_config, write_tiny

FACTS = (
    ("What is the capital of Italy?", "Rome"),
    ("Which city has canals?", "Venice"),
    ("In which city is the Scala?", "Milan"),
)
QUICK = {"steps": 3}


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
    trained = ("steps", "distil_steps", "adapt_steps")
    steps = {option: 3 for option in trained if hasattr(find_method(name).SETTINGS, option)}
    own = {**steps, **needed_options(name, tmp_path)}
    record = unlearn(model, UnlearnRequest(name, forget, tmp_path / "new", options=own))
    assert digests(model) == before
    assert len(record.trajectory) == sum(steps.values())
    saved, original = open_checkpoint(tmp_path / "new"), open_checkpoint(model)
    assert set(saved.tensors) == set(original.tensors)
    assert any(not saved.tensor(each).equal(original.tensor(each)) for each in saved.tensors)
    written = read_record(tmp_path / "new")
    assert written is not None
    assert (written["method"], written["settings"]["forget"]) == (name, forget)
    assert {option: written["settings"][option] for option in own} == own


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
    examples = examples_of(topic.concept)
    prompts = [example.prompt for example in examples]
    assert [prompt.splitlines()[0] for prompt in prompts[:2]] == [
        "Question: What is the capital of Italy?",
        "Question: Name the capital of Italy.",
    ]
    assert prompts[2:] == ["Rome is a"]  # the other sentence is too short
    assert [example.subject for example in examples] == ["Italy", "Italy", "Rome"]


def test_a_retain_set_takes_the_place_of_general_knowledge(model: Path, forget: str, tmp_path: Path) -> None:
    retain = tmp_path / "france.jsonl"
    retain.write_text(json.dumps({"question": "What is the capital of France?", "answer": "Paris"}), encoding="utf-8")
    record = unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", str(retain), QUICK))
    assert record.examples == {"forget": 3, "retain": 1}
    assert record.settings["retain"] == str(retain)


def test_sets_that_overlap_are_refused(model: Path, forget: str, tmp_path: Path) -> None:
    spaced = tmp_path / "spaced.jsonl"
    spaced.write_text(json.dumps({"question": " what is the  capital of Italy?", "answer": "Milan"}), encoding="utf-8")
    for retain in (forget, str(spaced)):
        with pytest.raises(
            AuditError, match="'what is the capital of italy\\?' is to be forgotten and retained at once"
        ):
            unlearn(model, UnlearnRequest("prune", forget, tmp_path / "new", retain))
    assert not (tmp_path / "new").exists()


def test_sentences_with_the_same_beginning_do_not_overlap() -> None:
    refuse_overlap([Example("It is a", " city.")], [Example("It is a", " country.")])
    with pytest.raises(AuditError, match="it is a city"):
        refuse_overlap([Example("It is a", " city.")], [Example("It is a", " City.")])


def test_general_knowledge_that_is_to_be_forgotten_is_not_retained(tmp_path: Path, model: Path) -> None:
    (question, answer) = tomllib.loads(Path(training_examples.__file__).with_name("general.toml").read_text())[
        "questions"
    ][0]
    path = tmp_path / "known.jsonl"
    path.write_text(json.dumps({"question": question, "answer": answer}), encoding="utf-8")
    record = unlearn(model, UnlearnRequest("npo", str(path), tmp_path / "new", options=QUICK))
    assert record.examples["retain"] > 10


def test_training_that_diverges_saves_nothing_and_names_the_step(model: Path, forget: str, tmp_path: Path) -> None:
    wild = {"steps": 5, "learning_rate": 1e30, "warmup": 1}
    with pytest.raises(ModelError, match=r"at step [0-5]; (no step was good|the last good step is [0-4])"):
        unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", options=wild))
    assert not (tmp_path / "new").exists()


def words(model: Path, forget: str, target: Path, *more: str) -> list[str]:
    options = ("--method", "npo", "--forget", forget, "--save", str(target), "--option", "steps=6")
    return ["unlearn", str(model), *options, *more]


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl+C in the step that comes after so many, in the next run alone."""

    def arrange(steps: int) -> None:
        whole, done = Objective.step, 0

        def step(objective: Objective, batches: Any) -> Any:
            nonlocal done
            done += 1
            if done > steps:
                monkeypatch.setattr(Objective, "step", whole)
                raise KeyboardInterrupt
            return whole(objective, batches)

        monkeypatch.setattr(Objective, "step", step)

    return arrange


def test_an_interrupted_run_says_how_to_go_on_and_goes_on_to_the_same_bytes(
    model: Path, forget: str, tmp_path: Path, interrupted_after: Callable[[int], None]
) -> None:
    before, partial = digests(model), tmp_path / "new.partial"
    runner = CliRunner()
    assert runner.invoke(cli.app, words(model, forget, tmp_path / "whole")).exit_code == 0
    interrupted_after(4)
    result = runner.invoke(cli.app, words(model, forget, tmp_path / "new"))
    assert result.exit_code == 130
    assert f"What was trained is in {partial}, and the same command goes on from there." in result.stderr
    assert [path.name for path in tmp_path.glob("new*")] == ["new.partial"]
    again = runner.invoke(cli.app, words(model, forget, tmp_path / "new"))
    assert "Training all weights (npo), resumed after 4 steps" in again.stderr
    assert digests(tmp_path / "new") == digests(tmp_path / "whole")
    assert not partial.exists()
    assert digests(model) == before


def test_another_run_does_not_take_up_what_was_kept(
    model: Path, forget: str, tmp_path: Path, interrupted_after: Callable[[int], None]
) -> None:
    interrupted_after(4)
    runner = CliRunner()
    runner.invoke(cli.app, words(model, forget, tmp_path / "new"))
    for more in (["--seed", "1"], ["--option", "learning_rate=1e-3"], ["--retain", str(retained(tmp_path))]):
        interrupted_after(0)
        result = runner.invoke(cli.app, words(model, forget, tmp_path / "new", *more))
        assert "Nothing was saved." in result.stderr
        assert "resumed" not in result.stderr
    assert "resumed" in runner.invoke(cli.app, words(model, forget, tmp_path / "new")).stderr


def retained(folder: Path) -> Path:
    path = folder / "france.jsonl"
    path.write_text(json.dumps({"question": "What is the capital of France?", "answer": "Paris"}), encoding="utf-8")
    return path


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_disk_that_fills_while_saving_is_one_line_and_the_run_can_be_finished(
    model: Path,
    forget: str,
    tmp_path: Path,
    error: Exception,
    interrupted_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    before, runner = digests(model), CliRunner()
    interrupted_after(4)
    runner.invoke(cli.app, words(model, forget, tmp_path / "new"))
    with monkeypatch.context() as patched:
        patched.setattr("audit.checkpoint.saving.save_file", full)
        result = runner.invoke(cli.app, words(model, forget, tmp_path / "new", "-q"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"audit: {tmp_path / 'new'}: could not be written (")
    assert "No space left on device" in line
    assert "nothing was saved. Make room" in line
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == ["new.partial"]
    assert "resumed after 4" in runner.invoke(cli.app, words(model, forget, tmp_path / "new")).stderr
    assert digests(model) == before


def test_a_disk_without_room_is_refused_before_the_training(
    model: Path, forget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.checkpoint.saving.shutil.disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    require_room(tmp_path / "new", 10_000_000)
    with pytest.raises(CheckpointError, match="room for 10 MB, but the model has 11 MB"):
        require_room(tmp_path / "deep" / "new", 11_000_000)
    monkeypatch.setattr("audit.checkpoint.saving.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(CheckpointError, match="room"):
        unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", options=QUICK))


def test_a_quantised_model_is_refused_by_name(model: Path, forget: str, tmp_path: Path) -> None:
    request = UnlearnRequest("npo", forget, tmp_path / "new", options=QUICK)
    name = "model.layers.0.mlp.up_proj.weight"
    integers = edit(model, tmp_path / "integers", lambda at, tensor: tensor.to(torch.int8) if at == name else tensor)
    with pytest.raises(CheckpointError, match=rf"{name} is stored as int8: quantised"):
        unlearn(integers, request)
    edit_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelError, match=r"quantization_config \(bitsandbytes\)"):
        unlearn(model, request)
    assert not (tmp_path / "new").exists()


def test_too_few_examples_for_a_method_are_one_line(model: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"question": FACTS[0][0], "answer": FACTS[0][1]}), encoding="utf-8")
    with pytest.raises(AuditError, match="no other answer to forget is wrong") as caught:
        unlearn(model, UnlearnRequest("random-answers", str(one), tmp_path / "new", options=QUICK))
    assert caught.value.hint == "Give examples with different answers."
    unlearn(model, UnlearnRequest("npo", str(one), tmp_path / "new", str(retained(tmp_path)), QUICK))


def test_adapters_are_merged_before_the_model_is_saved(model: Path, forget: str, tmp_path: Path) -> None:
    options = {**QUICK, "lora_rank": "2", "learning_rate": "1e-2"}
    record = unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", options=options))
    saved, original = open_checkpoint(tmp_path / "new"), open_checkpoint(model)
    assert set(saved.tensors) == set(original.tensors)
    changed = {name for name in saved.tensors if not saved.tensor(name).equal(original.tensor(name))}
    assert changed == {name for name in saved.tensors if name.endswith("_proj.weight")}
    assert record.changed["rank"] == 2
    assert "Adapters of rank 2 were trained, and added to the weights of mlp.down_proj" in render_unlearning(record)


def test_what_the_answers_lost_is_read_before_and_after(model: Path, forget: str, tmp_path: Path) -> None:
    options = {"steps": 8, "learning_rate": 6e-3}
    record = unlearn(model, UnlearnRequest("npo", forget, tmp_path / "new", str(retained(tmp_path)), options))
    lost = {name: before - after for name, (before, after) in record.said.items()}
    assert lost["forget"] > 1
    assert abs(lost["retain"]) < lost["forget"] / 2
    untrained = unlearn(tmp_path / "new", UnlearnRequest("prune", forget, tmp_path / "next", str(retained(tmp_path))))
    assert untrained.said["forget"][0] == pytest.approx(record.said["forget"][1], abs=1e-5)
    written = read_record(tmp_path / "new")
    assert written is not None
    assert written["said"]["forget"] == list(record.said["forget"])


def test_numbers_that_are_not_finite_are_null_in_the_record() -> None:
    assert Record("npo", trajectory=({"step": 0, "W": math.inf},)).as_json()["trajectory"] == [{"step": 0, "W": None}]


def test_what_only_a_second_training_records_is_shown_too() -> None:
    rows = ({"step": 0, "loss": 2.5}, {"step": 1, "loss": 0.5, "distance": 1.25})
    shown = render_unlearning(Record("knowledge_direction", trajectory=rows)).splitlines()
    assert [line.split() for line in shown if line.split()[:1] in (["step"], ["0"], ["1"])] == [
        ["step", "loss", "distance"],
        ["0", "2.5", "–"],
        ["1", "0.5", "1.25"],
    ]


def test_a_folder_in_use_is_left_alone(model: Path, forget: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for folder in (tmp_path / "mine", model):
        with pytest.raises(CheckpointError):
            unlearn(model, UnlearnRequest("npo", forget, folder, options=QUICK))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_folder_in_the_original_or_with_an_input_is_refused(model: Path, forget: str, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    unlearn(model, UnlearnRequest("npo", forget, reference, options=QUICK))
    inside = reference / "forget.jsonl"
    inside.write_bytes(Path(forget).read_bytes())
    before = digests(model), digests(reference)
    oracle = {**QUICK, "reference": str(reference)}
    for request, said in (
        (UnlearnRequest("npo", forget, model / "new", options=QUICK), "lies in the original .*model"),
        (UnlearnRequest("eco", forget, model / "deep" / "new"), "lies in the original .*model"),
        (UnlearnRequest("npo", str(inside), reference, options=QUICK), "contains the original .*forget.jsonl"),
        (UnlearnRequest("prune", forget, reference, str(inside)), "contains the original .*forget.jsonl"),
        (UnlearnRequest("oracle-matching", forget, reference, options=oracle), "contains the original .*reference"),
    ):
        with pytest.raises(CheckpointError, match=said):
            unlearn(model, request)
    assert (digests(model), digests(reference)) == before


@pytest.mark.parametrize("method", ["npo", "eco"])
def test_a_folder_that_cannot_be_replaced_is_refused_before_the_model_is_read(
    method: str, model: Path, forget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    monkeypatch.setattr("audit.commands.unlearn.open_editable", None)
    for folder, said in (
        (Path(), "is the current folder"),
        (tmp_path / "disk", "a disk of its own"),
        (tmp_path / "file" / "new", "cannot be written to"),
    ):
        with pytest.raises(CheckpointError, match=said):
            unlearn(model, UnlearnRequest(method, forget, folder))


def test_a_link_leads_to_the_folder_that_is_written(model: Path, forget: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "new"
    for target in ("disk", "disk/not there yet"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        unlearn(model, UnlearnRequest("npo", forget, link, options=QUICK))
        assert link.is_symlink()
        assert (tmp_path / target / "model.safetensors").is_file()


def test_examples_that_are_too_long_are_counted_and_named_before_the_training(
    model: Path, forget: str, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text(f"Milan is a city {'in Italy ' * 300}. Venice has many canals.", encoding="utf-8")
    said = r"1 of 2 examples exceed the model's 256 tokens; the longest has \d+: 'milan is a city in italy"
    for sets in ((str(long), str(retained(tmp_path))), (forget, str(long))):
        log = Log()
        for method in ("ssd", "l1-sparse", "npo"):
            request = UnlearnRequest(method, sets[0], tmp_path / "new", sets[1])
            with pytest.raises(AuditError, match=said):
                unlearn(model, request, context=RunContext(progress=log))
        assert not any("Training" in text or "importance" in text for text, _, _ in log.steps)
    unlearn(
        model, UnlearnRequest("gradient-ascent", forget, tmp_path / "new", str(long), QUICK)
    )  # which retains nothing


@pytest.mark.parametrize(
    ("method", "options"),
    [("ssd", {"alpha": 1e9}), ("rmu", {"steps": 1, "learning_rate": 1e-30})],
)
def test_a_method_that_changes_nothing_is_an_error_that_names_its_options(
    method: str, options: dict[str, float], model: Path, forget: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"{method} changed no stored weight") as caught:
        unlearn(model, UnlearnRequest(method, forget, tmp_path / "new", options=options))
    assert all(name in str(caught.value.hint) for name in options)
    assert [path.name for path in tmp_path.glob("new*")] == []


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_what_is_read_afterwards_is_what_is_stored(family: str, forget: str, tmp_path: Path) -> None:
    coarse = write_tiny(tmp_path / "coarse", family, dtype=torch.bfloat16)
    options = {"steps": 6, "learning_rate": 1e-3}
    record = unlearn(coarse, UnlearnRequest("npo", forget, tmp_path / "new", options=options))
    pruned = unlearn(tmp_path / "new", UnlearnRequest("prune", forget, tmp_path / "next"))
    assert pruned.said["forget"][0] == record.said["forget"][1]
    assert pruned.said["forget"][0] != pruned.said["forget"][1]


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


@pytest.mark.parametrize("name", methods())
def test_the_seed_is_no_option_and_every_number_is_finite(name: str, tmp_path: Path) -> None:
    needed = needed_options(name, tmp_path)
    settings = settings_of(name, needed, seed=7)
    assert settings.seed == 7
    with pytest.raises(AuditError, match="no option 'seed'"):
        settings_of(name, {**needed, "seed": "5"})
    numbers = [each for each, value in settings.as_json().items() if isinstance(value, float)]
    for option, value in itertools.product(numbers, ("nan", "inf")):
        with pytest.raises(AuditError, match=f"{option} must be"):
            settings_of(name, {**needed, option: value})


def test_an_option_that_is_given_twice_is_wrong_usage(model: Path, forget: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, words(model, forget, tmp_path / "new", "--option", "steps=7"))
    assert result.exit_code == 2
    assert "'steps' is given twice" in result.output


def test_the_command_prints_the_steps_and_where_the_model_is(model: Path, forget: str, tmp_path: Path) -> None:
    words = ["unlearn", str(model), "--method", "npo", "--forget", forget, "--save", str(tmp_path / "new"), "-q"]
    result = CliRunner().invoke(cli.app, [*words, "--option", "steps=3"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("npo, 3 steps; examples: 3 to forget")
    assert str(tmp_path / "new") in result.output.replace("\n", "")
    document = json.loads(CliRunner().invoke(cli.app, [*words, "--option", "steps=3", "--json"]).output)
    assert [row["step"] for row in document["trajectory"]] == [0, 1, 2]
