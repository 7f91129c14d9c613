"""Unlearning methods: the values of their papers, and what they do to a tiny model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.commands.unlearn import settings_of
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_logprobs, pack, tokenize
from audit.unlearning import methods as methods_folder
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import (
    circuit_breakers,
    dpo,
    embedding_only,
    gradient_ascent,
    layer_wise,
    methods,
    pdu,
    rmu,
    task_vector,
    undo,
)
from audit.unlearning.methods.npo import NPOSettings, forget_loss, gradient_weight, preference_loss, unlearn
from audit.unlearning.objective import Objective
from audit.unlearning.training import TrainingSettings, shuffled
from tests.helpers import DIFFERENT, FORGET, RETAIN, Log, answer_sum, open_model
from tests.tiny import write_tiny

BETAS = (0.01, 0.1, 1.0, 5.0)
npo_loss = partial(forget_loss, beta=0.1)


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


@pytest.fixture
def taught(tiny: RunningModel) -> RunningModel:
    """A model that has learnt what is to be forgotten and what is to be retained."""
    for _ in fine_tune(tiny, [*DIFFERENT, *RETAIN], [80], FineTuning(2e-2)):
        pass
    return tiny


# ---- the loss


@pytest.mark.parametrize("beta", BETAS)
def test_at_the_start_the_gradient_is_gradient_ascent_for_every_beta(beta: float) -> None:
    logprobs = torch.tensor([-1.5, -0.2, -7.0], requires_grad=True)
    preference_loss(logprobs, logprobs.detach().clone(), beta).backward()
    ascent = torch.full((3,), 1 / 3)  # of the mean log-probability
    torch.testing.assert_close(logprobs.grad, ascent)


@pytest.mark.parametrize("beta", BETAS)
def test_away_from_the_start_each_gradient_has_its_weight(beta: float) -> None:
    logprobs = torch.tensor([-1.5, -0.2, -7.0], requires_grad=True)
    reference = torch.tensor([-1.0, -2.0, -1.0])
    preference_loss(logprobs, reference, beta).backward()
    p, p_ref = logprobs.detach().exp() ** beta, reference.exp() ** beta
    W = 2 * p / (p + p_ref)
    torch.testing.assert_close(logprobs.grad, W / 3)
    torch.testing.assert_close(gradient_weight(logprobs.detach(), reference, beta), W)


def test_as_beta_goes_to_zero_the_loss_becomes_the_ascent_loss() -> None:
    logprobs, reference = torch.tensor([-2.5, -3.0]), torch.tensor([-0.4, -1.95])
    ascent = (logprobs - reference).mean()

    def distance(beta: float) -> float:
        shifted = preference_loss(logprobs.double(), reference.double(), beta) - 2 / beta * math.log(2)
        return abs((shifted - ascent).item())

    assert distance(1e-4) < 1e-3
    assert distance(1e-4) < distance(1e-2) < distance(1.0)


def test_a_constant_added_to_all_logits_changes_nothing(tiny: RunningModel) -> None:
    (tokens,) = tokenize(tiny.tokenizer, FORGET[:1])
    row = pack([(0, tokens)])
    with torch.no_grad():
        plain = answer_logprobs(tiny, row)
        bias = torch.nn.Parameter(torch.full((tiny.architecture.d_vocab,), 3.0))
        tiny.model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output + bias)
        shifted = answer_logprobs(tiny, row)
    reference = row.answer_sums(plain) + 1.0
    before = preference_loss(row.answer_sums(plain), reference, 0.1)
    after = preference_loss(row.answer_sums(shifted), reference, 0.1)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_the_first_step_of_a_model_has_weight_one_and_the_gradient_of_ascent(tiny: RunningModel) -> None:
    settings = NPOSettings(retain_weight=0, forget_batch=2)
    forget = tokenize(tiny.tokenizer, FORGET)
    tiny.model.requires_grad_(True)
    objective = Objective.start(npo_loss, partial(answer_logprobs, tiny), [*zip(forget)], [], settings, Log())
    loss, readings = objective.step(next(objective.batches))
    loss.backward()
    npo = {name: parameter.grad.clone() for name, parameter in tiny.model.named_parameters()}
    tiny.model.zero_grad()
    torch.stack([answer_sum(tiny, tokens) for tokens in forget]).mean().backward()
    assert readings["W"] == pytest.approx(1.0, abs=1e-5)
    for name, parameter in tiny.model.named_parameters():
        torch.testing.assert_close(npo[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_the_retain_term_starts_at_zero_and_counts_retained_answers_only(tiny: RunningModel) -> None:
    forget, retain = [*zip(tokenize(tiny.tokenizer, FORGET))], tokenize(tiny.tokenizer, RETAIN)
    read = partial(answer_logprobs, tiny)
    kl = Objective.start(npo_loss, read, forget, retain, NPOSettings(), Log())
    assert kl.step(next(kl.batches))[1]["retain"] == pytest.approx(0.0, abs=1e-6)
    ce = Objective.start(npo_loss, read, forget, retain, NPOSettings(retain_loss="ce"), Log())
    with torch.no_grad():
        total = sum(answer_sum(tiny, one).item() for one in retain)
    assert ce.step(next(ce.batches))[1]["retain"] == pytest.approx(
        -total / sum(len(one.answer) for one in retain), rel=1e-4
    )


def test_the_retain_term_is_the_mean_divergence_of_a_token_from_the_first_model(tiny: RunningModel) -> None:
    forget, retain = [*zip(tokenize(tiny.tokenizer, FORGET[:1]))], tokenize(tiny.tokenizer, RETAIN)
    settings = NPOSettings(forget_batch=1, retain_batch=len(retain))
    kl = Objective.start(npo_loss, partial(answer_logprobs, tiny), forget, retain, settings, Log())

    def distributions() -> torch.Tensor:
        places = [slice(len(one.prompt) - 1, len(one.prompt + one.answer) - 1) for one in retain]
        logits = [tiny.model(torch.tensor([one.prompt + one.answer])).logits[0] for one in retain]
        return torch.cat([own[place] for own, place in zip(logits, places, strict=True)]).log_softmax(dim=-1)

    with torch.no_grad():
        first = distributions()
        for parameter in tiny.model.parameters():
            parameter.mul_(1.05)
        divergence = (first.exp() * (first - distributions())).sum(dim=-1)
        assert len(divergence) > len(retain)
        assert kl.step(next(kl.batches))[1]["retain"] == pytest.approx(divergence.mean().item(), rel=1e-3)


# ---- the whole method


def test_unlearning_lowers_the_forgotten_answers_and_holds_the_retained(tiny: RunningModel) -> None:
    def measure(examples: Sequence[Example]) -> float:
        with torch.no_grad():
            return sum(answer_sum(tiny, one).item() for one in tokenize(tiny.tokenizer, examples))

    forget, retain = measure(FORGET), measure(RETAIN)
    log = Log()
    record = unlearn(tiny, FORGET, RETAIN, NPOSettings(steps=25, learning_rate=6e-3), log)
    fallen = forget - measure(FORGET)
    assert fallen > 15
    assert abs(retain - measure(RETAIN)) < fallen / 3
    weights = [row["W"] for row in record.trajectory]
    assert len(weights) == 25
    assert weights[0] == pytest.approx(1.0, abs=1e-5)
    assert weights[-1] < 0.8
    assert [(done, total) for text, done, total in log.steps if text.startswith("Training")][-1] == (25, 25)
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


def test_without_a_retain_term_the_retained_answers_fall_too(tmp_path: Path) -> None:
    lost = {}
    for weight in (0.0, 10.0):
        model = open_model(write_tiny(tmp_path / str(weight)))
        tokens = tokenize(model.tokenizer, RETAIN)
        with torch.no_grad():
            before = sum(answer_sum(model, one).item() for one in tokens)
            unlearn(model, FORGET, RETAIN, NPOSettings(steps=25, learning_rate=6e-3, retain_weight=weight))
            lost[weight] = before - sum(answer_sum(model, one).item() for one in tokens)
    assert lost[0.0] > lost[10.0] + 3


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    states = []
    for run, seed in enumerate((0, 0, 1)):
        model = open_model(write_tiny(tmp_path / str(run)))
        unlearn(model, FORGET, RETAIN, NPOSettings(steps=4, forget_batch=1, retain_batch=1, seed=seed))
        states.append(model.model.state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("forget", "retain", "said"),
    [([], RETAIN, "nothing to forget"), (FORGET, [], "nothing to retain"), (FORGET, [FORGET[1]], "at once")],
)
def test_missing_or_contradictory_examples_are_an_error(
    forget: list[Example], retain: list[Example], said: str, tiny: RunningModel
) -> None:
    with pytest.raises(AuditError, match=said):
        unlearn(tiny, forget, retain)


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"steps": 0}, {"learning_rate": -1e-3}, {"retain_weight": -1}])
def test_settings_out_of_range_are_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(AuditError, match=next(iter(wrong))):
        NPOSettings(**wrong)


@pytest.mark.parametrize(("n_items", "batch"), [(6, 2), (7, 3), (5, 4), (9, 8), (3, 8), (1, 1)])
def test_every_example_is_used_once_before_any_is_repeated(n_items: int, batch: int) -> None:
    batches = shuffled(n_items, batch, torch.Generator().manual_seed(3))
    drawn = [next(batches) for _ in range(4 * n_items)]
    assert all(len(set(each)) == min(batch, n_items) for each in drawn)
    stream = [index for each in drawn for index in each]
    for start in range(0, len(stream) - n_items + 1, n_items):
        assert sorted(stream[start : start + n_items]) == list(range(n_items))


def test_every_file_of_the_folder_is_a_method() -> None:
    folder = Path(methods_folder.__file__).parent
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(methods())


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("rmu", "retain_loss"),
        ("circuit_breakers", "retain_loss"),
        ("task_vector", "retain_batch"),
        ("gradient_ascent", "retain_loss"),
        ("l1_sparse", "retain_weight"),
        ("l1_sparse", "forget_batch"),
        ("oracle_matching", "retain_loss"),
        ("ssd", "steps"),
        ("rmu", "lora_rank"),
        ("undo", "lora_rank"),
    ],
)
def test_an_option_that_a_method_does_not_read_is_an_error_and_not_recorded(method: str, option: str) -> None:
    with pytest.raises(AuditError, match=f"no option '{option}'"):
        settings_of(method, {option: 1})
    assert option not in methods()[method].SETTINGS.as_json()


def test_gradient_ascent_has_no_retain_term() -> None:
    with pytest.raises(TypeError, match="retain_weight"):
        gradient_ascent.GradientAscentSettings(retain_weight=1.0)  # type: ignore[call-arg]
    assert gradient_ascent.SETTINGS.retain_weight == 0


SILENT_ABOUT: Mapping[str, Mapping[str, Any]] = {
    "circuit_breakers": {"steps": 60, "learning_rate": 6e-3},
    "embedding_only": {"steps": 60, "learning_rate": 0.1},
    "rmu": {"steps": 80, "learning_rate": 6e-3, "layer": 1},
    "task_vector": {"steps": 20, "learning_rate": 6e-3, "scale": 4.0},
    "undo": {"steps": 25, "learning_rate": 6e-3, "noise": 0.3, "distil_steps": 60, "distil_rate": 6e-3},
}
"""Options with which a method silences the tiny model, where they are not those of most methods."""
OTHERWISE = {"ignorant_teacher", "l1_sparse", "laf", "masquerade", "oracle_matching", "prune", "ssd", "worst_case"}
"""Methods that are not trained against all answers or need more than them; they have tests in files of their own."""


@pytest.mark.parametrize("method", sorted(set(methods()) - OTHERWISE))
def test_every_method_lowers_the_forgotten_answers_and_records_it(method: str, taught: RunningModel) -> None:
    def measure(examples: Sequence[Example]) -> float:
        with torch.no_grad():
            return sum(answer_sum(taught, one).item() for one in tokenize(taught.tokenizer, examples))

    forget, retain = measure(DIFFERENT), measure(RETAIN)
    assert min(forget, retain) > -1
    chosen = methods()[method]
    settings = replace(chosen.SETTINGS, **SILENT_ABOUT.get(method, {"steps": 25, "learning_rate": 6e-3}))
    assert isinstance(settings, TrainingSettings)
    record = chosen.unlearn(taught, DIFFERENT, RETAIN, settings, Log())
    fallen, lost = forget - measure(DIFFERENT), retain - measure(RETAIN)
    assert fallen > 5
    retains = settings.retain_weight > 0
    assert lost < min(10, fallen / 3) if retains else lost > 10
    assert record.method == method
    assert record.examples == {"forget": 2, "retain": 3 if retains else 0}
    if "log_ratio" in record.trajectory[0]:  # some methods do not read answers
        assert record.trajectory[settings.steps - 1]["log_ratio"] < -1


def test_dpo_makes_the_refusal_likelier(tiny: RunningModel) -> None:
    refusing = tokenize(tiny.tokenizer, [Example(FORGET[0].prompt, dpo.REFUSALS[0])])
    with torch.no_grad():
        before = answer_sum(tiny, refusing[0]).item()
        dpo.unlearn(tiny, FORGET, RETAIN, dpo.DPOSettings(steps=25, learning_rate=6e-3))
        assert answer_sum(tiny, refusing[0]).item() > before + 1


def test_rmu_steers_what_is_forgotten_holds_what_is_retained_and_trains_value_vectors_alone(
    taught: RunningModel,
) -> None:
    before = {name: value.clone() for name, value in taught.model.state_dict().items()}
    settings = rmu.RMUSettings(steps=60, learning_rate=6e-3, layer=1)
    record = rmu.unlearn(taught, DIFFERENT, RETAIN, settings)
    first, last = record.trajectory[0], record.trajectory[-1]
    assert first["retain"] == pytest.approx(0.0, abs=1e-9)
    assert last["steered"] < first["steered"] / 2
    assert last["retain"] < (first["steered"] - last["steered"]) / 4
    changed = [name for name, value in taught.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]
    assert record.changed == {"value_vectors_of_layers": [0, 1]}


def test_the_loss_of_rmu_is_the_distance_from_a_target_of_so_many_mean_norms(tiny: RunningModel) -> None:
    """Against a plain pass: the mean over tokens and dimensions, and of the retained tokens the move alone."""
    (tokens,) = tokenize(tiny.tokenizer, FORGET[:1])
    passed = tiny.model(input_ids=torch.tensor([tokens.inputs]), output_hidden_states=True)
    stream = passed.hidden_states[1][0]  # after the first of two layers
    direction = torch.randn(stream.shape[1], generator=torch.Generator().manual_seed(5))
    target = 3.0 * stream.norm(dim=1).mean() * direction / direction.norm()
    expected = (stream - target).square().mean().item()
    settings = rmu.RMUSettings(steps=1, retain_weight=0, layer=0, steering=3.0, seed=5)
    record = rmu.unlearn(tiny, FORGET[:1], [], settings)
    assert record.trajectory[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_circuit_breakers_weigh_turning_less_and_holding_more_from_step_to_step(
    weight: float, tiny: RunningModel
) -> None:
    settings = circuit_breakers.CircuitBreakerSettings(steps=4, learning_rate=1e-2, retain_weight=weight)
    for row in circuit_breakers.unlearn(tiny, DIFFERENT, RETAIN, settings).trajectory:
        share = row["step"] / 8
        expected = (1 - share) * row["cosine"] + (weight * share * row["retain"] if weight else 0)
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_rmu_reads_a_layer_that_there_is(taught: RunningModel) -> None:
    with pytest.raises(AuditError, match="no layer 2"):
        rmu.unlearn(taught, DIFFERENT, RETAIN, rmu.RMUSettings(layer=2))
    without = rmu.unlearn(taught, DIFFERENT, [], rmu.RMUSettings(steps=2, retain_weight=0))
    assert "retain" not in without.trajectory[0]
    assert without.settings["layer"] == 0


# ---- invariants of single methods


def weights(model: RunningModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def test_the_update_of_a_task_vector_is_opposite_to_training_in_every_matrix(tmp_path: Path) -> None:
    model, other = (open_model(write_tiny(tmp_path / name)) for name in ("one", "two"))
    before = weights(model)
    settings = task_vector.TaskVectorSettings(steps=3, learning_rate=1e-3, scale=2.5)
    task_vector.unlearn(model, FORGET, RETAIN, settings)
    task_vector.unlearn(other, FORGET, RETAIN, replace(settings, scale=1e-3))
    for name, value in weights(model).items():
        change, small = (value - before[name]).flatten(), (weights(other)[name] - before[name]).flatten()
        if change.norm() > 0:
            assert torch.cosine_similarity(change, small, dim=0) > 0.99, name
    for _ in fine_tune(trained := open_model(write_tiny(tmp_path / "three")), FORGET, [3], FineTuning(1e-3, seed=0)):
        pass
    name = "model.layers.0.mlp.down_proj.weight"
    forward, back = (weights(each)[name] - before[name] for each in (trained, model))
    assert torch.cosine_similarity(forward.flatten(), back.flatten(), dim=0) < -0.8  # warmed up in another way


@pytest.mark.parametrize(("retained", "expected"), [(0.5, 3.25), (0.05, 1.0), (0.0, 0.75), (-10.0, 0.0)])
def test_the_multiplier_follows_the_excess_and_is_never_negative(retained: float, expected: float) -> None:
    assert pdu.next_multiplier(1.0, retained, tolerance=0.05, rate=5.0) == pytest.approx(expected)


def test_a_tighter_constraint_makes_the_multiplier_larger(tmp_path: Path) -> None:
    last = []
    for number, tolerance in enumerate((1e-4, 10.0)):
        model = open_model(write_tiny(tmp_path / str(number)))
        settings = pdu.PDUSettings(steps=20, learning_rate=6e-3, tolerance=tolerance)
        record = pdu.unlearn(model, FORGET, RETAIN, settings)
        assert record.trajectory[0]["retain_weight"] == 1.0
        last.append(record.trajectory[-1]["retain_weight"])
    assert last[0] > 1.0
    assert last[1] == 0.0


def test_only_rows_of_the_forget_sets_own_tokens_change(taught: RunningModel) -> None:
    before = weights(taught)
    record = embedding_only.unlearn(taught, DIFFERENT, RETAIN, embedding_only.EmbeddingOnlySettings(steps=5))
    changed = {name for name, value in weights(taught).items() if not torch.equal(value, before[name])}
    (name,) = changed
    rows = (weights(taught)[name] != before[name]).any(dim=1).nonzero()[:, 0].tolist()
    assert rows == record.changed["token_ids"]
    retained = {token for each in tokenize(taught.tokenizer, RETAIN) for token in (*each.prompt, *each.answer)}
    assert rows
    assert not retained & set(rows)


def test_a_forget_set_without_tokens_of_its_own_has_no_embedding_to_change(taught: RunningModel) -> None:
    same = [Example(FORGET[0].prompt + " ", " Rome")]
    with pytest.raises(AuditError, match="no token of their own"):
        embedding_only.own_tokens(taught, FORGET[:1], [*RETAIN, *same])


def test_layer_wise_ascent_silences_every_layer_and_leaves_the_head(taught: RunningModel) -> None:
    before = weights(taught)
    settings = layer_wise.LayerWiseSettings(steps=40, learning_rate=6e-3)
    record = layer_wise.unlearn(taught, DIFFERENT, RETAIN, settings)
    assert record.trajectory[-1]["mean_layer"] > record.trajectory[0]["mean_layer"] + 2
    changed = [name for name, value in weights(taught).items() if not torch.equal(value, before[name])]
    assert changed
    assert all(name.startswith("model.layers.") for name in changed)


def test_a_layer_that_guesses_is_not_driven_further(taught: RunningModel) -> None:
    """The loss of each layer counts up to that of guessing, and no further gradient comes from it."""
    settings = layer_wise.LayerWiseSettings(steps=60, learning_rate=2e-2, retain_weight=0)
    record = layer_wise.unlearn(taught, DIFFERENT, [], settings)
    guessing = math.log(taught.model.config.vocab_size)
    assert max(row["last_layer"] for row in record.trajectory) > guessing
    assert max(row["mean_layer"] for row in record.trajectory) == pytest.approx(guessing, rel=1e-3)


def test_circuit_breakers_do_not_turn_what_points_away_already(tiny: RunningModel) -> None:
    settings = circuit_breakers.CircuitBreakerSettings(retain_weight=0)
    layers = [0, 1]
    tokens = tokenize(tiny.tokenizer, DIFFERENT)
    rerouting = circuit_breakers._Rerouting(tiny, layers, tokens, [], settings)
    with torch.no_grad():
        rerouting.read(Log())
        batches = next(rerouting.batches)
        assert rerouting.step(batches)[0].item() == pytest.approx(1.0, abs=1e-5)
        rerouting.before = [{layer: -each[layer] for layer in layers} for each in rerouting.before]
        assert rerouting.step(batches)[0].item() == 0


def test_circuit_breakers_turn_the_stream_and_hold_what_is_retained(taught: RunningModel) -> None:
    before = weights(taught)
    settings = circuit_breakers.CircuitBreakerSettings(steps=60, learning_rate=6e-3)
    record = circuit_breakers.unlearn(taught, DIFFERENT, RETAIN, settings)
    first, last = record.trajectory[0], record.trajectory[-1]
    assert first["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert first["retain"] == pytest.approx(0.0, abs=1e-4)
    assert last["cosine"] < 0.2
    assert last["retain"] < 0.3
    changed = [name for name, value in weights(taught).items() if not torch.equal(value, before[name])]
    assert all(value.ndim > 1 for name, value in before.items() if name in changed)
    assert record.changed == {"matrices_of_layers": [0, 1]}


def test_noise_of_share_one_keeps_the_size_of_a_matrix_and_nothing_else() -> None:
    matrix = torch.nn.Parameter(torch.randn(200, 300) * 0.3)
    before = matrix.detach().clone()
    undo.add_noise({"matrix": matrix}, 1.0, torch.Generator().manual_seed(0))
    assert matrix.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([matrix.detach().flatten(), before.flatten()]))[0, 1].item()) < 0.02


def test_distillation_brings_back_what_is_retained_after_the_noise(taught: RunningModel) -> None:
    with torch.no_grad():
        retain = sum(answer_sum(taught, one).item() for one in tokenize(taught.tokenizer, RETAIN))
        settings = undo.UNDOSettings(steps=25, learning_rate=6e-3, noise=0.3, distil_steps=60, distil_rate=6e-3)
        record = undo.unlearn(taught, DIFFERENT, RETAIN, settings)
        after = sum(answer_sum(taught, one).item() for one in tokenize(taught.tokenizer, RETAIN))
    assert after > retain - 2
    losses = [row["loss"] for row in record.trajectory[25:]]
    assert losses[0] > 5 * losses[-1]
    assert [row["step"] for row in record.trajectory] == [*range(85)]
