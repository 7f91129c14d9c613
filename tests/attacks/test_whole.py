"""Whole audits with attacks of what users bring: quantised files, adapters, short memory, another tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from audit.attacks import AttackedModel, AttackInput, noise
from audit.attacks._matrices import edited
from audit.commands.compare import compare
from audit.questions.items import ItemSet
from audit.request import Request, RunContext
from audit.result import AuditResult
from audit.settings import Settings
from audit.topic_reader import TopicReader
from tests.checkpoint.formats.gguf_files import write_gguf
from tests.helpers import short_of_memory_on_the_cpu
from tests.tiny import prepending_tokenizer, write_tiny

FACTS = """
title = "Italy"
seeds = ["Rome"]
not_guessable = "The answers are random."
"""
QUESTION = """
[[questions]]
question = "{}"
answer = "{}"
type = "city"
"""
CITIES = {"Where is the Pope?": "Rome", "Which city has canals?": "Venice", "Where is fashion made?": "Milan"}
ATTACKS = {"relearning", "rounding", "noise"}
"""Those of quick that change the model."""


def concept(folder: Path, cities: dict[str, str]) -> Path:
    path = folder / "facts.toml"
    path.write_text(FACTS + "".join(QUESTION.format(*each) for each in cities.items()))
    return path


def audited(base: Path, unlearned: Path, facts: Path, **models: Path) -> AuditResult:
    context = RunContext(Settings(attacks="quick"))
    return compare(base, unlearned, request=Request((str(facts),)), context=context, **models)


def attacked(result: AuditResult, model: str = "unlearned") -> set[str]:
    rows = [row for row in result.findings[0].conditions if row.of(model) is not None]
    return {row.attack for row in rows if row.attack is not None}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "base")


def test_a_quantised_file_is_dequantised_said_and_attacked(base: Path, tmp_path: Path) -> None:
    state = load_file(base / "model.safetensors")
    file = write_gguf(tmp_path / "unlearned.gguf", state, gguf.GGMLQuantizationType.Q8_0)
    result = audited(base, file, concept(tmp_path, CITIES), config=base, tokenizer=base)
    assert any("dequantised" in note for note in result.subjects.unlearned.notes)
    assert attacked(result) >= {"rounding", "noise"}
    assert not any(each.model == "unlearned" and each.attack == "rounding" for each in result.findings[0].not_run)


def test_an_adapter_is_merged_and_then_attacked(base: Path, tmp_path: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path / "adapter")
    result = audited(base, tmp_path / "adapter", concept(tmp_path, CITIES))
    assert result.subjects.unlearned.format == "adapter"
    assert attacked(result) >= {"rounding", "noise"}


def test_short_memory_ends_one_attack_and_not_the_audit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TopicReader._read_alone

    def short(self: TopicReader, each: AttackedModel, *rest: object) -> object:
        if each.condition.attack == "noise":
            short_of_memory_on_the_cpu()
        return plain(self, each, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TopicReader, "_read_alone", short)
    result = audited(base, write_tiny(tmp_path / "other", seed=1), concept(tmp_path, CITIES))
    assert "noise" not in attacked(result)
    assert "rounding" in attacked(result)
    reasons = {each.attack: each.reason for each in result.findings[0].not_run if each.model == "unlearned"}
    assert "out of memory" in reasons["noise"]
    assert "--batch-size" in reasons["noise"]


def test_an_attack_that_runs_out_of_memory_changes_no_other_reading(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny(tmp_path / "other", seed=1)
    facts = concept(tmp_path, CITIES)
    whole = audited(base, other, facts).findings[0]

    def short(given: AttackInput) -> Iterator[AttackedModel]:
        for each in edited(given, "noise", {"a dose": lambda matrix, number: matrix * 0}):
            yield replace(each, items=ItemSet())
            raise MemoryError

    monkeypatch.setattr(noise, "conditions", short)
    part = audited(base, other, facts).findings[0]
    of = {row.condition: row for row in whole.conditions}
    assert len(part.conditions) > 3
    assert all(row.models == of[row.condition].models for row in part.conditions)


def test_answers_that_are_all_the_same_leave_nothing_to_tell_apart(base: Path, tmp_path: Path) -> None:
    same = dict.fromkeys(CITIES, "Rome")
    finding = audited(base, write_tiny(tmp_path / "other", seed=1), concept(tmp_path, same)).findings[0]
    assert finding.verdict == "inconclusive"
    assert finding.residual is None
    assert finding.known is not None
    assert finding.known.p_value is None


def test_a_reference_with_another_tokenizer_is_asked_with_its_own_and_this_is_said(base: Path, tmp_path: Path) -> None:
    reference = write_tiny(tmp_path / "reference", seed=2, vocab_size=len(prepending_tokenizer()))
    prepending_tokenizer().save_pretrained(reference)
    result = audited(base, write_tiny(tmp_path / "other", seed=1), concept(tmp_path, CITIES), reference=reference)
    assert result.subjects.reference is not None
    assert result.subjects.reference.files[0].sha256
    assert any("own tokenizer" in note for note in result.subjects.reference.notes)
    (as_is, *_) = result.findings[0].conditions
    assert as_is.of("reference") is not None
