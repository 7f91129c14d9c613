"""O3 on tiny models: what a weight of 0 leaves bit for bit, hooks of others, and requests one after the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.commands.unlearn import UnlearnRequest, unlearn
from audit.errors import AuditError, ModelError
from audit.guards import read_guard
from audit.guards.methods import o3
from audit.guards.sites import Sites
from audit.models.loading import RunningModel
from tests.guards.test_eco import batch
from tests.guards.test_guards import o3_request
from tests.helpers import FORGET_PROMPTS, RETAIN_PROMPTS, open_model
from tests.tiny import write_tiny

FLAGGED, OTHER = FORGET_PROMPTS[0], RETAIN_PROMPTS[0]
LAYERS = np.array([0, 1])


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def logits(model: RunningModel, texts: list[str], guard: o3.O3Guard | None = None) -> torch.Tensor:
    with torch.no_grad():
        if guard is None:
            return model.model(**batch(model, texts)).logits
        with guard.apply(model.model, Sites.from_architecture(model.architecture)):
            return model.model(**batch(model, texts)).logits


def closed(request: o3.Request) -> o3.Request:
    """The same with a gate that no prompt opens."""
    return replace(request, detector=replace(request.detector, score_mean=np.full(2, -1e6)))


def test_a_prompt_of_weight_0_is_equal_bit_for_bit_alone_and_beside_one_that_is_guarded(tiny: RunningModel) -> None:
    guard = o3.O3Guard(LAYERS, (o3_request(tiny),), least=0.3)
    plain, guarded = logits(tiny, [FLAGGED, OTHER]), logits(tiny, [FLAGGED, OTHER], guard)
    assert torch.equal(guarded[1], plain[1])
    assert not torch.allclose(guarded[0, -1], plain[0, -1], atol=0.1)
    assert torch.equal(logits(tiny, [OTHER], guard), logits(tiny, [OTHER]))
    shut = replace(guard, requests=(closed(guard.requests[0]),))
    assert torch.equal(logits(tiny, [FLAGGED, OTHER], shut), plain)
    assert torch.equal(logits(tiny, [FLAGGED, OTHER]), plain)


def test_by_the_papers_formula_no_prompt_is_left_quite_alone(tiny: RunningModel) -> None:
    guard = o3.O3Guard(LAYERS, (o3_request(tiny),), least=0.0)
    assert not torch.equal(logits(tiny, [OTHER], guard), logits(tiny, [OTHER]))


def test_the_adapter_is_applied_as_much_as_the_weight_says(tiny: RunningModel) -> None:
    """As with the weights changed by ``w * scaling * B A``."""
    request = o3_request(tiny)
    guard = o3.O3Guard(LAYERS, (request,), least=0.3)
    (weight,) = guard.decide(o3.read_prompts(tiny, [FLAGGED], LAYERS))[0]
    assert 0.3 < weight < 1
    guarded = logits(tiny, [FLAGGED], guard)
    with torch.no_grad():
        for name, (A, B) in request.matrices.items():
            tiny.model.get_parameter(f"{name}.weight").add_(float(weight) * request.scaling * B @ A)
    assert torch.allclose(guarded, logits(tiny, [FLAGGED]), atol=1e-4)


def test_requests_are_added_each_by_its_own_gate(tiny: RunningModel) -> None:
    first, second = o3_request(tiny), o3_request(tiny, seed=1)
    both, one = (o3.O3Guard(LAYERS, requests, least=0.3) for requests in ((first, second), (first, closed(second))))
    alone = o3.O3Guard(LAYERS, (first,), least=0.3)
    assert torch.equal(logits(tiny, [FLAGGED], one), logits(tiny, [FLAGGED], alone))
    assert not torch.allclose(logits(tiny, [FLAGGED], both), logits(tiny, [FLAGGED], alone), atol=0.1)


def test_hooks_of_others_stay_and_keep_firing(tiny: RunningModel) -> None:
    guard = o3.O3Guard(LAYERS, (o3_request(tiny),), least=0.3)
    fired: list[str] = []
    names = (next(iter(guard.requests[0].matrices)), Sites.from_architecture(tiny.architecture).out[1], "")
    for name in names:
        tiny.model.get_submodule(name).register_forward_hook(lambda *_, name=name: fired.append(name))
    plain = logits(tiny, [FLAGGED])
    assert len(fired) == 3
    logits(tiny, [FLAGGED], guard)
    fired.clear()
    assert torch.equal(logits(tiny, [FLAGGED]), plain)
    assert len(fired) == 3


def test_an_adapter_of_other_widths_is_refused(tiny: RunningModel) -> None:
    request = o3_request(tiny)
    name, (A, B) = next(iter(request.matrices.items()))
    wrong = replace(request, matrices={**request.matrices, name: (A[:, 1:], B)})
    with pytest.raises(ModelError, match=f"adapter of {name} has other widths"):
        logits(tiny, [FLAGGED], o3.O3Guard(LAYERS, (wrong,), least=0.3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": "silence"}, "no answers 'silence'"),
        ({"rank": 0}, "rank must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"penalty": -1.0}, "penalty must not be negative"),
        ({"least": 1.0}, "least is 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        o3.O3Options(**options)


# ---- one request after the other


@pytest.fixture
def facts(tmp_path: Path) -> dict[str, str]:
    sets = {
        "capitals": [(f"What is the capital of Italy, {n}?", ("Rome", "Milan", "Venice")[n % 3]) for n in range(12)],
        "dogs": [(f"Which dog is {n} years old?", ("puppy", "hound", "terrier")[n % 3]) for n in range(12)],
        "months": [(f"Which month has {n} letters?", ("May", "June", "March")[n % 3]) for n in range(12)],
    }
    for name, rows in sets.items():
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {name: str(tmp_path / f"{name}.jsonl") for name in sets}


def fitted(base: Path, facts: dict[str, str], forget: str, target: Path, **options: Any) -> o3.O3Guard:
    request = UnlearnRequest("o3", facts[forget], target, facts["months"], {"rank": 4, "steps": 3, **options})
    unlearn(base, request)
    guard = read_guard(target).guard
    assert isinstance(guard, o3.O3Guard)
    return guard


def test_a_later_request_keeps_the_earlier_ones_and_starts_apart_from_them(
    facts: dict[str, str], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "base", max_position_embeddings=512)
    first = fitted(base, facts, "capitals", tmp_path / "first")
    both = fitted(base, facts, "dogs", tmp_path / "both", after=str(tmp_path / "first"))
    assert len(both.requests) == 2
    kept, new = both.requests
    for name, pair in first.requests[0].matrices.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, kept.matrices[name], strict=True))
    np.testing.assert_array_equal(kept.detector.bank, first.requests[0].detector.bank)
    assert kept.overlaps == ()
    (shared,) = new.overlaps
    assert abs(shared) < 0.1
    keys = o3.read_prompts(open_model(base), FORGET_PROMPTS, first.layers)
    np.testing.assert_array_equal(both.decide(keys)[:, :1], first.decide(keys))


def test_an_earlier_guard_must_be_one_of_this_method_and_of_this_model(facts: dict[str, str], tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", max_position_embeddings=512)
    fitted(base, facts, "capitals", tmp_path / "first")
    unlearn(base, UnlearnRequest("neuron-adjust", facts["dogs"], tmp_path / "other", facts["months"]))
    another = write_tiny(tmp_path / "another", seed=1, max_position_embeddings=512)
    for model, options, message in (
        (base, {"after": str(tmp_path / "other")}, "not a guard of the method o3"),
        (base, {"after": str(tmp_path / "nowhere")}, "holds no guard"),
        (another, {"after": str(tmp_path / "first")}, "a guard of another model"),
        (base, {"after": str(tmp_path / "first"), "layers": "1"}, "reads other layers"),
    ):
        with pytest.raises(AuditError, match=message):
            fitted(model, facts, "dogs", tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("answers", "trained"), [("refusal", {"I", "That"}), ("random", {"Rome", "Milan", "Venice"})])
def test_what_is_trained_are_refusals_or_answers_of_others(
    answers: str, trained: set[str], facts: dict[str, str], tmp_path: Path
) -> None:
    from audit.guards.facts import fact_skills
    from audit.guards.splits import tokenize_skill
    from concepts.concept import load_concept

    model = open_model(write_tiny(tmp_path / "base", max_position_embeddings=512))
    skill, _ = fact_skills(load_concept(facts["capitals"]))
    tokenized = tokenize_skill(skill, model, 0, "Question: {}")
    examples = o3.replaced_answers(tokenized, answers, seed=0)
    assert {example.answer.split()[0] for example in examples} <= trained
    right = {tokenized.prompts[at]: tokenized.answer_text(at) for at in tokenized.splits.fit}
    assert {example.prompt for example in examples} == set(right)
    assert all(example.answer != right[example.prompt] for example in examples)
