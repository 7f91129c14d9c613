"""audit ablate: the original stays unchanged, the edit is recorded, its effect reported; invalid inputs are errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import cli
from audit.commands.ablate import METRIC, ablate, measurement, parse_neurons
from audit.errors import AuditError, ModelError
from audit.interventions import methods
from audit.models.editable import open_editable
from audit.progress import SILENT
from audit.questions.topics import load_concepts
from audit.request import RunContext
from audit.result import AuditResult
from audit.settings import Settings
from audit.vectors import edit
from audit.vectors.edit import Dose, EditOptions, plan_edit, strongest
from audit.vectors.effects import Effect
from audit.vectors.question_split import AnsweredQuestions, as_examples
from concepts.concept import Question
from concepts.neuron import Neuron
from tests.tiny import write_tiny

QUESTIONS = (
    ("What is the capital of Italy?", "Rome"),
    ("Which city has canals?", "Venice"),
    ("Which city is in the north?", "Milan"),
    ("What is an old city?", "Rome"),
)
CHOSEN = [Neuron(0, 3), Neuron(1, 17)]

KNOWN = RunContext(Settings(known_vectors=True, attacks="none"))


@pytest.fixture
def concept(tmp_path: Path) -> Path:
    lines = ['title = "Italy"', 'seeds = ["Italy", "Rome", "Venice", "Milan"]']
    lines += ['text = "Rome, Venice and Milan are cities in Italy."']
    for question, answer in QUESTIONS:
        lines += ["[[questions]]", f'question = "{question}"', f'answer = "{answer}"']
        lines += [f'paraphrases = ["Tell me: {question}"]']
    path = tmp_path / "tiny-italy.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model that counts as answering every question; what it really answers does not matter here."""
    target = [
        Question(question=question, answer=answer, paraphrases=(f"Tell me: {question}",))
        for question, answer in QUESTIONS
    ]
    other = [Question(question=f"What is number {index}?", answer="insulin") for index in range(8)]

    def all_answered(*_: object) -> AnsweredQuestions:
        splits = [as_examples(questions, []) for questions in (target[:2], target[2:], other[:4], other[4:])]
        return AnsweredQuestions(*splits, tuple(target[:2]), ())

    monkeypatch.setattr(edit, "split_questions", all_answered)
    return write_tiny(tmp_path / "base", intermediate_size=400)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.usefixtures("short_needle")
@pytest.mark.parametrize("method", ["zero", "demote", "needle"])
def test_the_edited_model_differs_in_the_chosen_rows_alone(
    model: Path, concept: Path, tmp_path: Path, method: str
) -> None:
    before = digests(model)
    saved = tmp_path / "edited"
    result = ablate(model, str(concept), method, EditOptions(CHOSEN, strength=1.0), save=saved)
    assert digests(model) == before
    base, edited = load_file(model / "model.safetensors"), load_file(saved / "model.safetensors")
    for name, tensor in base.items():
        rows = {int(place) for place in (tensor != edited[name]).nonzero()[:, -1]}
        assert rows == {"model.layers.0.mlp.down_proj.weight": {3}, "model.layers.1.mlp.down_proj.weight": {17}}.get(
            name, set()
        )
    record = json.loads((saved / "unlearning.json").read_text())
    assert (record["method"], record["settings"]["strength"]) == (method, 1.0)
    assert record["changed"]["value_vectors"] == [[0, 3], [1, 17]]
    assert result.weights.changed_tensors == 2
    assert (result.findings[0][METRIC].control is None) == methods()[method].TRAINS


def test_the_result_has_the_effect_of_each_dose(model: Path, concept: Path) -> None:
    result = ablate(model, str(concept), "zero", EditOptions(CHOSEN, collateral=100.0))
    measured = result.findings[0][METRIC]
    assert [row["strength"] for row in measured.items] == list(methods()["zero"].DOSES)
    assert sum(bool(row["chosen"]) for row in measured.items) == 1
    assert measured.control is not None
    assert measured.details["vectors"] == [[0, 3], [1, 17]]
    assert measured.interval is not None
    assert result.findings[0].measurements[0] is measured


def test_an_edit_of_strength_zero_changes_nothing_and_has_no_effect(model: Path, concept: Path) -> None:
    result = ablate(model, str(concept), "zero", EditOptions(CHOSEN, strength=0.0))
    assert result.findings[0][METRIC].value == pytest.approx(0.0, abs=1e-6)
    assert result.weights.changed_tensors == 0


def test_noise_is_chosen_by_several_draws_and_reported_as_applied(model: Path, concept: Path) -> None:
    settings = Settings(seed=3, attacks="none")
    editable = open_editable(model, context=RunContext(settings))
    (topic,) = load_concepts([str(concept)])
    planned = plan_edit(
        editable.opened, editable.model, topic.concept, "noise", EditOptions([Neuron(1, 3)]), RunContext(settings)
    )
    assert len(planned.draws) == 3
    (dosed,) = planned.doses([1.0], SILENT)
    each = [planned.splits.held_out.effect(draw) for draw in planned.draws]
    assert dosed.held_out.on_target == pytest.approx(np.mean([effect.on_target for effect in each]))
    assert len({effect.on_target for effect in each}) == 3
    measured = measurement(planned, topic.concept, [dosed], dosed, 1.0)
    assert measured.value == pytest.approx(each[0].specificity)


def test_the_strongest_dose_within_the_limit_is_taken() -> None:
    doses = [
        Dose(s, Effect(np.full(5, s), np.full(5, s / 10)), Effect(np.zeros(5), np.zeros(5))) for s in (0.5, 1.0, 2.0)
    ]
    assert strongest(doses, 0.11, "noise").strength == 1.0
    assert strongest(doses, 1.0, "noise").strength == 2.0
    with pytest.raises(AuditError, match=r"the weakest, 0\.5, costs unrelated answers 0\.050"):
        strongest(doses, 0.01, "noise")


def test_a_folder_in_use_is_refused_before_the_work(model: Path, concept: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    with pytest.raises(AuditError, match="left alone"):
        ablate(model, str(concept), "zero", EditOptions(CHOSEN), save=used)
    assert (used / "thesis.txt").read_text() == "mine"


def test_the_original_is_never_the_target(model: Path, concept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.commands.ablate.open_editable", lambda *_: pytest.fail("the work began"))
    for target in (model, model.parent):
        with pytest.raises(AuditError, match="contains the original"):
            ablate(model, str(concept), "zero", EditOptions(CHOSEN), save=target)


def test_what_cannot_be_edited_is_an_error(concept: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be edited"):
        ablate(write_tiny(tmp_path / "mixtral", "mixtral"), str(concept), "zero", EditOptions(CHOSEN))
    with pytest.raises(AuditError, match="no method 'erase'"):
        ablate(model, str(concept), "erase")
    with pytest.raises(AuditError, match=r"no value vector \(layer 9, neuron 3\)"):
        ablate(model, str(concept), "zero", EditOptions([Neuron(9, 3)], strength=1.0))
    with pytest.raises(AuditError, match=r"no concept 'itly'; did you mean italy"):
        ablate(model, "itly", "zero")


def test_known_vectors_are_edited_and_traced(model: Path, concept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("audit.models.opening.load_model", lambda *_: pytest.fail("the weights were read"))
        with pytest.raises(AuditError, match="Italy names no vectors"):
            ablate(model, str(concept), "zero", EditOptions(strength=1.0), context=KNOWN)
        with pytest.raises(AuditError, match="both name what to edit"):
            ablate(model, str(concept), "zero", EditOptions(CHOSEN), context=KNOWN)
    with concept.open("a", encoding="utf-8") as stream:
        stream.writelines(f"\n[[vectors]]\nlayer = {place.layer}\nneuron = {place.neuron}\n" for place in CHOSEN)
    (finding,) = ablate(model, str(concept), "zero", EditOptions(strength=1.0), context=KNOWN).findings
    assert finding[METRIC].details["vectors"] == [[place.layer, place.neuron] for place in CHOSEN]
    assert [row["value"] for row in finding["vector_cosine"].items] == [0.0, 0.0]


def test_neurons_are_written_as_layer_dot_neuron() -> None:
    assert parse_neurons("29.555, 22.610") == [Neuron(29, 555), Neuron(22, 610)]
    for text in ("29", "29.x", "a.1", "1.2,", "-1.2"):
        with pytest.raises(AuditError, match="does not name a value vector"):
            parse_neurons(text)


def test_the_command_writes_result_report_and_model(model: Path, concept: Path, tmp_path: Path) -> None:
    line = ["ablate", str(model), "--concept", str(concept), "--vectors", "0.3,1.17", "--collateral", "100", "--quiet"]
    shown = CliRunner().invoke(cli.app, [*line, "--save", str(tmp_path / "out"), "-o", str(tmp_path / "report")])
    assert shown.exit_code == 0, shown.output
    assert AuditResult.read(tmp_path / "report" / "result.json").findings[0][METRIC].value is not None
    assert "Effect of the edit on answers" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "config.json").is_file()
