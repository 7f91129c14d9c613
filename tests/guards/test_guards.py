"""Guards on tiny models: their effect on generation, that removing them leaves nothing behind, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.stats import norm

from audit.errors import CheckpointError, ModelError
from audit.guards import load_guard, read_guard, save_guard
from audit.guards.activity import read_activity
from audit.guards.gates import fit_detector
from audit.guards.methods import Guard, eco, key_space, methods, neuron_adjust, o3, prune
from audit.guards.saving import digest
from audit.guards.sites import Sites, positions
from audit.models.keys import collect
from audit.models.loading import RunningModel
from audit.unlearning.parts import linear_layers, widths
from concepts.adjust import SPREAD_FLOOR
from concepts.regions import fit_hypercube, fit_region
from tests.helpers import FORGET_PROMPTS, RETAIN_PROMPTS, greedy_tokens, open_model, token_ids
from tests.tiny import write_tiny

FAMILIES = ("llama", "gpt2", "phi3", "opt", "gemma3")


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def fitted(model: RunningModel, method: str) -> Guard:
    if method == "key-space":
        keys = collect(model, token_ids(model, FORGET_PROMPTS)).rows
        return key_space.KeySpaceGuard(fit_hypercube(keys, layer=1), (7, 8, 9), end=5)
    if method == "eco":
        forget, retain = (collect(model, token_ids(model, texts)).rows for texts in (FORGET_PROMPTS, RETAIN_PROMPTS))
        classifier = eco.fit_classifier(forget, retain)
        return eco.ECOGuard(np.array([0, 1]), classifier, 0.5, "noise", dims=0, strength=3.0, seed=0)
    if method == "o3":
        return o3.O3Guard(np.array([0, 1]), (o3_request(model),), least=0.3)
    return chosen(model, method, share=0.2)


def o3_request(model: RunningModel, seed: int = 0) -> o3.Request:
    """A gate that is open for the prompts to forget and closed for others, and a random adapter."""
    forget, retain = (collect(model, token_ids(model, texts)).rows for texts in (FORGET_PROMPTS, RETAIN_PROMPTS))
    detector = fit_detector(forget, np.arange(len(forget)), forget, retain)
    scores, others = detector.score(forget), detector.score(retain)
    centre, reach = scores.mean(), np.abs(scores - scores.mean()).max()
    assert np.abs(others - centre).min() > 2 * reach
    detector = replace(detector, score_mean=np.full(2, centre), score_std=np.full(2, reach))
    generator = torch.Generator().manual_seed(seed)
    matrices = {
        name: tuple(
            torch.randn(shape, generator=generator) for shape in ((2, widths(module)[0]), (widths(module)[1], 2))
        )
        for name, module in linear_layers(model).items()
    }
    return o3.Request(detector, matrices, scaling=0.2)


def chosen(model: RunningModel, method: str, **options: Any) -> Any:
    """A guard of neurons, fitted to the activity under both sets of prompts."""
    forget, retain = (read_activity(model, token_ids(model, texts)) for texts in (FORGET_PROMPTS, RETAIN_PROMPTS))
    if method == "prune":
        return prune.choose(forget, retain, prune.PruneOptions(**options))
    return neuron_adjust.choose(forget, retain, neuron_adjust.NeuronAdjustOptions(**options), seed=0)


def applied(model: RunningModel, guard: Guard) -> ExitStack:
    return guard.apply(model.model, Sites.from_architecture(model.architecture))


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_guard_in_generation_decides_by_the_keys_that_it_was_fitted_on(pool: str, tiny: RunningModel) -> None:
    texts = [*FORGET_PROMPTS, *RETAIN_PROMPTS]
    keys = collect(tiny, token_ids(tiny, texts), pool="both").rows
    cube = fit_hypercube(
        keys[: len(FORGET_PROMPTS)], layer=1 + (tiny.architecture.n_layers if pool == "mean" else 0), alpha=1.05
    )
    with applied(tiny, key_space.KeySpaceGuard(cube, (7, 8, 9), end=5)):
        refused = [tokens[:4] == [7, 8, 9, 5] for tokens in greedy_tokens(tiny, texts)]
    assert refused == cube.inside(keys).tolist()
    assert any(refused)
    assert not all(refused)


# ---- every method


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_saved_guard_does_what_the_fitted_one_does_and_is_removed_without_trace(
    method: str, tiny: RunningModel, tmp_path: Path
) -> None:
    plain, before = greedy_tokens(tiny, [*FORGET_PROMPTS, *RETAIN_PROMPTS]), hooks(tiny.model)
    guard = fitted(tiny, method)
    assert hooks(tiny.model) == before
    with applied(tiny, guard):
        first = greedy_tokens(tiny, [*FORGET_PROMPTS, *RETAIN_PROMPTS])
    folder = save_guard(guard, tmp_path / "guard", tiny, "capitals")
    on = load_guard(tiny.model, folder)
    assert hooks(tiny.model) > before
    assert greedy_tokens(tiny, [*FORGET_PROMPTS, *RETAIN_PROMPTS]) == first != plain
    on.remove()
    on.remove()
    assert hooks(tiny.model) == before
    assert greedy_tokens(tiny, [*FORGET_PROMPTS, *RETAIN_PROMPTS]) == plain


@pytest.mark.parametrize("method", sorted(methods()))
@pytest.mark.parametrize("family", FAMILIES)
def test_cache_batch_and_padding_change_nothing(method: str, family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    texts = [FORGET_PROMPTS[0], RETAIN_PROMPTS[0], FORGET_PROMPTS[1]]
    with applied(model, fitted(model, method)):
        together = greedy_tokens(model, texts)
        assert greedy_tokens(model, texts, cache=False) == together
        assert [greedy_tokens(model, [text])[0] for text in texts] == together


# ---- single methods


def test_a_query_inside_is_refused_and_one_outside_is_answered(tiny: RunningModel) -> None:
    plain = greedy_tokens(tiny, [FORGET_PROMPTS[0], RETAIN_PROMPTS[0]])
    with applied(tiny, fitted(tiny, "key-space")):
        inside, outside = greedy_tokens(tiny, [FORGET_PROMPTS[0], RETAIN_PROMPTS[0]])
    assert inside == [7, 8, 9, 5, 5, 5, 5, 5]
    assert outside == plain[1]


def test_a_plain_pass_padded_on_the_right_refuses_at_the_last_token(tiny: RunningModel) -> None:
    rows = token_ids(tiny, [FORGET_PROMPTS[0], RETAIN_PROMPTS[0]])
    longest = max(map(len, rows)) + 2
    batch = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    plain = tiny.model(input_ids=batch, attention_mask=mask).logits
    with applied(tiny, fitted(tiny, "key-space")):
        guarded = tiny.model(input_ids=batch, attention_mask=mask).logits
    assert guarded[0, len(rows[0]) - 1].argmax() == 7
    assert torch.equal(guarded[1], plain[1])
    assert torch.equal(guarded[0, : len(rows[0]) - 1], plain[0, : len(rows[0]) - 1])


def test_pruned_neurons_have_no_key(tiny: RunningModel) -> None:
    guard = fitted(tiny, "prune")
    assert isinstance(guard, prune.PruneGuard)
    seen: dict[int, torch.Tensor] = {}
    sites = Sites.from_architecture(tiny.architecture)
    with applied(tiny, guard):
        for layer, path in enumerate(sites.out):
            module = tiny.model.get_submodule(path)
            module.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.update({layer: inputs[0]}))
        tiny.model(torch.tensor(token_ids(tiny, FORGET_PROMPTS[:1])))
    assert len(guard.neurons) == round(0.2 * 2 * 40)
    for layer, neuron in guard.neurons.tolist():
        assert not seen[layer][..., neuron].any()


def test_a_pre_activation_is_moved_as_the_paper_says(tiny: RunningModel) -> None:
    guard = fitted(tiny, "neuron-adjust")
    assert isinstance(guard, neuron_adjust.NeuronAdjustGuard)
    path = Sites.from_architecture(tiny.architecture).pre[0]
    own = guard.neurons[:, 0] == 0
    columns = guard.neurons[own, 1]
    seen: list[np.ndarray] = []
    module = tiny.model.get_submodule(path)
    before = module.register_forward_hook(lambda _, inputs, output: seen.append(output[0].numpy().copy()))
    with torch.no_grad(), applied(tiny, guard):
        after = module.register_forward_hook(lambda _, inputs, output: seen.append(output[0].numpy().copy()))
        tiny.model(torch.tensor(token_ids(tiny, FORGET_PROMPTS[:1])))
    before.remove()
    after.remove()
    x, moved = seen[0][:, columns], seen[1][:, columns]
    mu_f, s_f = guard.forget.mean[own], guard.forget.std[own]
    mu_r, s_r = guard.retain.mean[own], guard.retain.std[own]
    likelier = norm.logpdf(x, mu_f, s_f) > norm.logpdf(x, mu_r, s_r)
    reflected = mu_r - s_r * (x - mu_f) / s_f
    changed = ~np.isclose(moved, x)
    assert changed.any()
    assert likelier[changed].all()
    np.testing.assert_allclose(moved[changed], reflected[changed], rtol=1e-3, atol=1e-4)
    untouched = np.setdiff1d(np.arange(40), columns)
    np.testing.assert_array_equal(seen[0][:, untouched], seen[1][:, untouched])


def test_moments_are_those_of_all_tokens(tiny: RunningModel) -> None:
    rows = token_ids(tiny, FORGET_PROMPTS)
    activity = read_activity(tiny, rows, batch_size=2)
    keys = []
    module = tiny.model.get_submodule(Sites.from_architecture(tiny.architecture).out[1])
    with torch.no_grad():
        handle = module.register_forward_pre_hook(lambda _, inputs: keys.append(inputs[0][0].numpy().copy()))
        for row in rows:
            tiny.model(torch.tensor([row]))
        handle.remove()
    every = np.concatenate(keys)
    assert activity.tokens == len(every)
    np.testing.assert_allclose(activity.keys.mean[1], every.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(activity.keys.std[1], every.std(axis=0), atol=1e-5)
    np.testing.assert_allclose(activity.key_size[1], np.abs(every).mean(axis=0), atol=1e-5)


def test_a_neuron_with_constant_activations_has_a_spread_above_zero(tiny: RunningModel) -> None:
    activity = read_activity(tiny, [(5,)])  # one token: nothing moves
    assert (activity.pre.std == SPREAD_FLOOR).all()
    assert (activity.keys.std == SPREAD_FLOOR).all()


def test_activations_that_are_not_finite_are_refused_and_leave_no_hook(tiny: RunningModel) -> None:
    before = hooks(tiny.model)
    with pytest.raises(ModelError, match="no prompt"):
        read_activity(tiny, [])
    next(iter(tiny.model.parameters())).data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a finite number"):
        read_activity(tiny, token_ids(tiny, FORGET_PROMPTS))
    assert hooks(tiny.model) == before


@pytest.mark.parametrize("method", ["neuron-adjust", "prune"])
def test_the_chosen_layers_are_kept_with_the_guard(method: str, tiny: RunningModel, tmp_path: Path) -> None:
    guard = chosen(tiny, method, share=0.2, layers=(1,))
    assert len(guard.neurons) == round(0.2 * 40)
    assert set(guard.neurons[:, 0]) == {1}
    folder = save_guard(guard, tmp_path / "guard", tiny, "capitals")
    assert read_guard(folder).guard.save().settings == guard.save().settings
    assert guard.save().settings["layers"] == [1]
    document = json.loads((folder / "guard.json").read_text())
    del document["settings"]["layers"]  # older guards have no layers
    (folder / "guard.json").write_text(json.dumps(document))
    assert read_guard(folder).guard.save().settings["layers"] == []


def test_positions_count_tokens_and_not_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert positions({"attention_mask": mask}, 4, 0).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert positions({"attention_mask": mask}, 1, 3).tolist() == [[1], [3]]
    assert positions({}, 2, 5).tolist() == [[5, 6]]


# ---- what is refused


def nothing(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None: ...


def another_field(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    document["colour"] = "red"


def another_method(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    document["method"] = "prayer"


def no_neurons(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["neutrons"] = arrays.pop("neurons")


def not_a_number(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["forget.mean"][0] = np.nan


def another_layer(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["neurons"][0, 0] = 99


def half_the_moments(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["retain.std"] = arrays["retain.std"][::2].copy()


def no_places(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    document["sites"]["d_mlp"] = "many"


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (another_layer, "its own model does not have"),
        (half_the_moments, "its own model does not have"),
        (no_places, "valid integer"),
        (another_field, "Extra inputs"),
        (another_method, "unknown method 'prayer'"),
        (no_neurons, "neurons"),
        (not_a_number, r"forget\.mean holds values that are not numbers"),
    ],
)
def test_a_damaged_guard_is_refused(
    damage: Callable[[dict[str, Any], dict[str, np.ndarray]], None], message: str, tiny: RunningModel, tmp_path: Path
) -> None:
    folder = save_guard(fitted(tiny, "neuron-adjust"), tmp_path / "guard", tiny, "capitals")
    document, arrays = json.loads((folder / "guard.json").read_text()), load_file(folder / "guard.safetensors")
    damage(document, arrays)
    (folder / "guard.json").write_text(json.dumps(document))
    save_file(arrays, folder / "guard.safetensors")
    before = hooks(tiny.model)
    with pytest.raises(CheckpointError, match=message):
        load_guard(tiny.model, folder)
    assert hooks(tiny.model) == before


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("kind", ["cube", "vote"])
def test_a_region_of_another_width_is_refused(kind: str, tiny: RunningModel, tmp_path: Path) -> None:
    keys = collect(tiny, token_ids(tiny, [*FORGET_PROMPTS, *RETAIN_PROMPTS]), pool="both").rows
    region = (
        fit_hypercube(keys[:3], 1) if kind == "cube" else fit_region(keys[:3], keys[3:], keys[:3], [1], miss_rate=0.3)
    )
    guard = key_space.KeySpaceGuard(region, (7,), end=5)
    folder = save_guard(guard, tmp_path / "guard", tiny, "capitals")
    assert read_guard(folder).guard.save().settings == guard.save().settings
    arrays = load_file(folder / "guard.safetensors")
    save_file(arrays | {"mean": arrays["mean"][..., 1:].copy()}, folder / "guard.safetensors")
    with pytest.raises(CheckpointError, match="its own model does not have"):
        read_guard(folder)


def test_a_guard_for_another_base_is_refused(tiny: RunningModel, tmp_path: Path) -> None:
    folder = save_guard(fitted(tiny, "prune"), tmp_path / "guard", tiny, "capitals")
    before = digest(tiny.model)
    with torch.no_grad():
        next(iter(tiny.model.parameters()))[0, 0] += 1
    assert digest(tiny.model) != before
    with pytest.raises(ModelError, match="made for another model"):
        load_guard(tiny.model, folder)


def test_experts_cannot_be_guarded(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "mixtral", "mixtral"))
    with pytest.raises(ModelError, match="spread over experts"):
        Sites.from_architecture(model.architecture)
