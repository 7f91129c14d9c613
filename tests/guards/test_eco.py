"""ECO on tiny models: what is corrupted and what is left bit for bit, and the search for the strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.errors import AuditError
from audit.guards.methods import eco
from audit.guards.sites import Sites
from audit.models.hooks import embedding_name
from audit.models.loading import RunningModel
from audit.progress import SILENT
from tests.helpers import FORGET_PROMPTS, RETAIN_PROMPTS, open_model, token_ids
from tests.tiny import write_tiny

FLAGGED, OTHER = FORGET_PROMPTS[0], RETAIN_PROMPTS[0]


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


@pytest.fixture
def guard(tiny: RunningModel) -> eco.ECOGuard:
    layers = np.array([0, 1])
    forget, retain = (eco.read_prompts(tiny, texts, layers) for texts in (FORGET_PROMPTS, RETAIN_PROMPTS))
    return eco.ECOGuard(layers, eco.fit_classifier(forget, retain), 0.5, "noise", dims=0, strength=3.0, seed=0)


def batch(model: RunningModel, texts: list[str]) -> dict[str, torch.Tensor]:
    """Padded on the left."""
    rows = token_ids(model, texts)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


def logits(model: RunningModel, texts: list[str], guard: eco.ECOGuard | None = None) -> torch.Tensor:
    with torch.no_grad():
        if guard is None:
            return model.model(**batch(model, texts)).logits
        with guard.apply(model.model, Sites.from_architecture(model.architecture)):
            return model.model(**batch(model, texts)).logits


def embedded(model: RunningModel, texts: list[str], guard: eco.ECOGuard) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model is given for each token, and what its embedding says."""
    seen: list[torch.Tensor] = []
    module = model.model.get_submodule(embedding_name(model.model))
    with torch.no_grad(), guard.apply(model.model, Sites.from_architecture(model.architecture)):
        handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
        model.model(**batch(model, texts))
        handle.remove()
    return seen[-1], module(batch(model, texts)["input_ids"])


def test_a_flagged_prompt_is_corrupted_and_another_in_its_batch_is_equal_bit_for_bit(
    tiny: RunningModel, guard: eco.ECOGuard
) -> None:
    plain, guarded = logits(tiny, [FLAGGED, OTHER]), logits(tiny, [FLAGGED, OTHER], guard)
    assert torch.equal(guarded[1], plain[1])
    assert not torch.allclose(guarded[0, -1], plain[0, -1], atol=0.1)
    assert torch.equal(logits(tiny, [FLAGGED, OTHER]), plain)


def test_noise_is_in_the_first_dimensions_of_every_token_but_the_last(tiny: RunningModel, guard: eco.ECOGuard) -> None:
    given, plain = embedded(tiny, [FLAGGED, OTHER], replace(guard, dims=3))
    length = len(token_ids(tiny, [FLAGGED])[0])
    changed = given != plain
    assert changed[0, -length:-1, :3].all()
    assert not changed[0, -1].any()
    assert not changed[0, :-length].any()  # padding
    assert not changed[..., 3:].any()
    assert not changed[1].any()


def test_the_noise_has_the_strength_as_its_standard_deviation_and_is_drawn_by_seed_and_position() -> None:
    classifier = eco.Classifier(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.0)
    guard = eco.ECOGuard(np.array([0]), classifier, 0.5, "noise", dims=0, strength=2.5, seed=1)
    zeros, places = torch.zeros(400, 50), torch.arange(400)
    noise = guard.corrupt(zeros, places)
    assert noise.std().item() == pytest.approx(2.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.06)
    assert torch.equal(guard.corrupt(zeros[:2], places[[7, 7]]), noise[[7, 7]])
    assert not torch.equal(replace(guard, seed=2, _draws={}).corrupt(zeros, places), noise)


def test_the_entries_of_largest_size_are_set_to_zero() -> None:
    classifier = eco.Classifier(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.0)
    guard = eco.ECOGuard(np.array([0]), classifier, 0.5, "zero", dims=0, strength=2.0, seed=0)
    rows = torch.tensor([[1.0, -5.0, 3.0, 0.5], [-0.1, 0.2, -0.3, 0.0]])
    assert guard.corrupt(rows, torch.arange(2)).tolist() == [
        [1.0, 0.0, 0.0, 0.5],
        pytest.approx([-0.1, 0.0, 0.0, 0.0]),
    ]
    assert not replace(guard, strength=99.0).corrupt(rows, torch.arange(2)).any()


@pytest.mark.parametrize("corruption", ["noise", "zero"])
def test_strength_0_is_the_identity(corruption: str, tiny: RunningModel, guard: eco.ECOGuard) -> None:
    idle = replace(guard, corruption=corruption, strength=0.0)
    assert torch.equal(logits(tiny, [FLAGGED, OTHER], idle), logits(tiny, [FLAGGED, OTHER]))


def test_a_prompt_of_one_token_passes_through(tiny: RunningModel, guard: eco.ECOGuard) -> None:
    always = replace(guard, threshold=0.0)
    assert len(token_ids(tiny, ["a"])[0]) == 1
    assert torch.equal(logits(tiny, ["a"], always), logits(tiny, ["a"]))
    assert not torch.equal(logits(tiny, ["a b"], always), logits(tiny, ["a b"]))


def test_a_prompt_that_follows_its_own_beginning_is_flagged_all_the_same(
    tiny: RunningModel, guard: eco.ECOGuard
) -> None:
    (ids,) = token_ids(tiny, [FLAGGED])
    begun = tiny.tokenizer.decode(ids[:-1])
    assert guard.decide(eco.read_prompts(tiny, [begun, FLAGGED], guard.layers)).tolist() == [[0.0], [1.0]]
    plain = logits(tiny, [FLAGGED])
    with torch.no_grad(), guard.apply(tiny.model, Sites.from_architecture(tiny.architecture)):
        for length in (len(ids) - 1, len(ids)):
            found = tiny.model(torch.tensor([ids[:length]])).logits
    assert not torch.allclose(found[0, -1], plain[0, -1], atol=0.1)


def test_hooks_of_others_stay_and_keep_firing(tiny: RunningModel, guard: eco.ECOGuard) -> None:
    fired: list[str] = []
    for name in (embedding_name(tiny.model), Sites.from_architecture(tiny.architecture).out[1], ""):
        tiny.model.get_submodule(name).register_forward_hook(lambda *_, name=name: fired.append(name))
    applied = guard.apply(tiny.model, Sites.from_architecture(tiny.architecture))
    applied.close()
    plain = logits(tiny, [FLAGGED])
    assert len(fired) == 3
    logits(tiny, [FLAGGED], guard)
    fired.clear()
    assert torch.equal(logits(tiny, [FLAGGED]), plain)
    assert len(fired) == 3


def test_what_a_probe_took_before_is_not_changed(tiny: RunningModel, guard: eco.ECOGuard) -> None:
    seen: list[torch.Tensor] = []
    module = tiny.model.get_submodule(embedding_name(tiny.model))
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    logits(tiny, [FLAGGED], guard)
    handle.remove()
    assert len(seen) == 2  # the prompt is read, then answered
    assert torch.equal(seen[1], module(batch(tiny, [FLAGGED])["input_ids"]))


def test_a_prompt_is_read_as_it_is_also_after_a_pass_that_failed(tiny: RunningModel, guard: eco.ECOGuard) -> None:
    sites = Sites.from_architecture(tiny.architecture)
    seen: list[torch.Tensor] = []

    def fail(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.append(output.clone())
        if len(seen) == 2:
            raise KeyboardInterrupt

    module = tiny.model.get_submodule(embedding_name(tiny.model))
    with torch.no_grad(), guard.apply(tiny.model, sites):
        handle = module.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            tiny.model(**batch(tiny, [FLAGGED]))
        tiny.model(**batch(tiny, [FLAGGED]))
        handle.remove()
    read_first, answered_first, read_again, answered_again = seen
    assert torch.equal(read_first, read_again)
    assert torch.equal(answered_first, answered_again)
    assert not torch.equal(read_first, answered_first)


# ---- the search for the strength


def parabola(at: float) -> Callable[[float], float]:
    return lambda strength: (strength - at) ** 2


def test_a_central_difference_is_exact_for_a_parabola() -> None:
    options = eco.ECOOptions(strength=1.0, steps=1, rate=0.5)
    strength, steps = eco.search(parabola(3.0), options, SILENT)
    assert strength == pytest.approx(3.0)
    assert [step["strength"] for step in steps] == [1.0]


def test_the_steps_become_shorter_so_that_the_search_settles_in_a_kink() -> None:
    options = eco.ECOOptions(strength=0.0, steps=40, rate=1.0, epsilon=0.01)
    _, steps = eco.search(lambda strength: 4 * abs(strength - 2.5), options, SILENT)
    assert max(abs(step["strength"] - 2.5) for step in steps[30:]) < 0.15


def test_next_to_0_the_difference_is_divided_by_the_shorter_way() -> None:
    """From 0.05 the strengths 0 and 0.15 are compared: their slope is -5.85, so the next one is 0.635."""
    options = eco.ECOOptions(strength=0.05, steps=1, rate=0.1, epsilon=0.1)
    strength, _ = eco.search(parabola(3.0), options, SILENT)
    assert strength == pytest.approx(0.05 + 0.1 * 5.85)


def test_a_strength_is_never_negative_and_the_best_that_was_tried_is_taken() -> None:
    tried: list[float] = []

    def distance(strength: float) -> float:
        tried.append(strength)
        return strength

    strength, _ = eco.search(distance, eco.ECOOptions(strength=1.0, steps=4, rate=1.0), SILENT)
    assert (strength, min(tried)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "rust"}, "no corruption 'rust'"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"strength": -1.0}, "strength must not be negative"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"rate": float("nan")}, "rate must be positive"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        eco.ECOOptions(**options)
