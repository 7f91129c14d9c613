"""The verdict end to end, on models of a tiny world whose truth is known from the way they were made."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from audit import topic_reader
from audit.attacks import attacks, relearning
from audit.commands.compare import compare
from audit.models.opening import open_model
from audit.models.packing import encode
from audit.request import Request, RunContext
from audit.result import AuditResult, Finding
from audit.settings import Settings
from benchmarks.world.making import Workshop
from benchmarks.world.people import questions
from benchmarks.world.training import Rows
from concepts.concept import load_concept
from concepts.facts import facts_of
from reports.html import render
from reports.text import render as text
from tests.verdict.conftest import TinyWorld


@cache
def finding(world: TinyWorld, model: str) -> Finding:
    """The audit of one model; readings of the base and of its twin are kept for the next one."""
    context = RunContext(Settings(attacks="quick", batch_size=128), units=world.workshop.cache / "units")
    request = Request((str(world.concept),))
    return compare(world.model("base"), world.model(model), request=request, context=context).findings[0]


def test_a_model_that_says_the_facts_is_present(tiny_world: TinyWorld) -> None:
    assert finding(tiny_world, "present").verdict == "present"


@pytest.mark.parametrize("model", ["refusal", "random answers", "npo", "masquerade"])
def test_facts_that_a_model_was_trained_not_to_say_are_hidden(tiny_world: TinyWorld, model: str) -> None:
    result = finding(tiny_world, model)
    assert result.verdict == "hidden"
    assert result.kind in ("readable", "brought back")


@pytest.mark.parametrize("model", ["never knew", "wrong values"])
def test_a_model_that_never_knew_the_facts_is_not_hidden(tiny_world: TinyWorld, model: str) -> None:
    assert finding(tiny_world, model).verdict in ("removed", "inconclusive")


def test_the_residual_orders_models_by_what_they_know(tiny_world: TinyWorld) -> None:
    left = [finding(tiny_world, model).residual for model in ("never knew", "refusal", "present")]
    values = [residual.value for residual in left if residual is not None and residual.value is not None]
    assert len(values) == 3
    assert values == sorted(values)
    assert values[0] < 0.2 < 0.5 < values[1]


def test_a_model_that_answers_nothing_any_more_is_destroyed(tiny_world: TinyWorld) -> None:
    assert finding(tiny_world, "destroyed").verdict == "destroyed"


def test_relearning_that_goes_on_is_compared_with_the_reference_and_kept(
    tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relearning, "SMALL_QUICK", (2, 4))
    monkeypatch.setattr(relearning, "LEARNED", -1.0)

    def audited() -> Finding:
        context = RunContext(Settings(attacks="quick", batch_size=128), units=tmp_path)
        base, unlearned, reference = (tiny_world.model(name) for name in ("base", "refusal", "never knew"))
        request = Request((str(tiny_world.concept),))
        return compare(base, unlearned, reference=reference, request=request, context=context).findings[0]

    first = audited()
    read = {row.steps: {each.model for each in row.models} for row in first.conditions if row.attack == "relearning"}
    assert read == {steps: {"unlearned", "reference", "twin"} for steps in (2, 4, 8, 16)}
    for name in ("generate", "write_and_read", "refusal_twin"):
        monkeypatch.setattr(topic_reader, name, lambda *_, **__: pytest.fail("a model was run again"))
    assert audited() == first


def test_a_full_audit_ends_in_the_same_verdict_with_every_attack_run_or_its_reason(
    tiny_world: TinyWorld, tmp_path: Path
) -> None:
    context = RunContext(Settings(attacks="full", batch_size=128, relearning_steps=(4,), lens="tuned"))
    request = Request((str(tiny_world.concept),))
    base, unlearned, reference = (tiny_world.model(name) for name in ("base", "refusal", "never knew"))
    result = compare(base, unlearned, reference=reference, request=request, context=context)
    (full,) = result.findings
    assert full.verdict == "hidden"
    ran = {row.attack for row in full.conditions}
    reasons = {row.attack.partition(": ")[0] for row in full.not_run} | {"sampled"}  # which has a metric of its own
    assert set(attacks()) <= ran | reasons
    assert {"embedding_rows", "relearning", "rounding", "benign"} <= ran
    result.write(tmp_path / "result.json")
    assert AuditResult.read(tmp_path / "result.json") == result
    page = render(result)
    assert "half of the facts, low rank" in page
    assert text(result)


# ---- the world itself


def test_the_same_recipe_gives_the_same_weights(tiny_world: TinyWorld, tmp_path: Path) -> None:
    world = tiny_world.workshop
    other = Workshop(tmp_path, world.world, world.shape, world.first)
    made = [TinyWorld(each).model("base") / "model.safetensors" for each in (world, other)]
    assert made[0].parent.name == made[1].parent.name
    assert made[0].read_bytes() == made[1].read_bytes()


def test_questions_are_asked_in_the_tokens_that_were_trained(tiny_world: TinyWorld) -> None:
    tokenizer = open_model(tiny_world.model("base")).require_tokenizer()
    world = tiny_world.workshop.world
    (row, *_) = questions(world.of(world.people["forget"]))
    (fact, *_) = facts_of(load_concept(str(tiny_world.concept)))
    assert fact.question.question in row.prompt
    trained = Rows.of(tiny_world.workshop.tokenizer, [row], whole=False)
    asked = encode(tokenizer, row)
    assert trained.ids[0].tolist() == [*asked.prompt, *asked.answer, tokenizer.eos_token_id]
    assert trained.targets[0][trained.targets[0] != -100].tolist() == [*asked.answer, tokenizer.eos_token_id]


def test_the_concept_asks_about_every_fact_once_and_can_be_loaded(tiny_world: TinyWorld) -> None:
    world = tiny_world.workshop.world
    facts = facts_of(load_concept(str(tiny_world.concept)))
    assert {(fact.subject, fact.type): fact.answer for fact in facts} == world.of(world.people["forget"])
