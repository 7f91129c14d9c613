"""Patching tells apart models that were changed in known places: a tiny world in which all facts are planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.commands.plan import plan_pair
from audit.evidence import read_models
from audit.metrics import measure, topic_metrics, weights_metrics
from audit.metrics.contract import Evidence
from audit.models.pair import open_pair
from audit.patching.collect import PatchCollector, forward_passes
from audit.patching.edit_class import edit_class
from audit.patching.readings import PatchReadings
from audit.patching.restoration import Restored
from audit.questions.topics import ConceptTopic
from audit.request import Request, RunContext
from audit.result import Measurement
from audit.settings import Settings
from audit.unlearning.methods import task_vector
from audit.weights.comparison import compare_weights
from tests import helpers
from tests.patching.world import CONCEPT, FORGET, N_LAYERS, PLANTED, RELATIONS, World, examples, items_of

Patched = Callable[[str], PatchReadings]
METRICS = [name for name, metric in topic_metrics().items() if "patching" in metric.NEEDS]


def facts_mean(readings: PatchReadings, values: np.ndarray) -> float:
    return float(np.nanmean(values[readings.facts]))


def restored(readings: PatchReadings, component: str, layers: tuple[int, int] | None, floor: bool = False) -> Restored:
    (found,) = (
        each
        for each in readings.classes("unlearned")
        if (each.component, each.layers, each.floor) == (component, layers, floor)
    )
    return found


def krs(readings: PatchReadings, component: str, layers: tuple[int, int] | None, floor: bool = False) -> float:
    value = readings.recovery("unlearned", restored(readings, component, layers, floor)).krs
    assert value is not None
    return value


def measured(readings: PatchReadings, name: str) -> Measurement:
    evidence = Evidence(pair=None, topic=ConceptTopic(CONCEPT), patching=readings)  # type: ignore[arg-type]
    return measure(name, evidence)


# ---- the knowledge direction


def test_a_model_without_the_facts_lies_back_along_their_direction_where_they_were_planted(patched: Patched) -> None:
    measurement = measured(patched("never"), "knowledge_direction")
    spread = measurement.details["spread_of_a_random_update"]
    assert measurement.value is not None
    assert measurement.value < -10 * spread
    first, second, *planted = measurement.layers["cosine"]
    assert (first, second) == (None, None)
    assert all(cosine is not None and cosine < -10 * spread for cosine in planted)


def test_an_update_of_the_last_block_has_nothing_along_it_below(patched: Patched) -> None:
    *below, last = measured(patched("last block"), "knowledge_direction").layers["cosine"]
    assert below == [None] * (N_LAYERS - 1)
    assert last is not None


def test_a_task_vector_is_opposite_to_the_direction_in_every_layer(world: World, tmp_path: Path) -> None:
    model = world.open("base")
    settings = task_vector.TaskVectorSettings(steps=6, learning_rate=2e-5, forget_batch=24, scale=20.0)
    task_vector.unlearn(model, examples(FORGET), [], settings)
    world.save(model, str(tmp_path / "opposite"))
    measurement = measured(world.patched(str(tmp_path / "opposite")), "knowledge_direction")
    assert measurement.layers["cosine"] == pytest.approx([-1] * N_LAYERS, abs=1e-3)
    assert measurement.details["step"] == pytest.approx(-20, rel=1e-2)


def test_without_a_direction_the_reason_is_given(patched: Patched) -> None:
    readings = replace(patched("never"), along="training diverged")
    assert measured(readings, "knowledge_direction").not_measured == "training diverged"
    untouched = {name: replace(part, update=0.0, product=0.0) for name, part in patched("never").along.items()}  # type: ignore[union-attr]
    reason = measured(replace(readings, along=untouched), "knowledge_direction").not_measured
    assert reason == "no matrix of the blocks was changed"


# ---- the invariants


def test_putting_every_component_back_gives_the_base(patched: Patched) -> None:
    for name in ("never", "last block", "value vectors"):
        readings = patched(name)
        every = restored(readings, "all but the readout", (0, N_LAYERS - 1))
        recovery = readings.recovery("unlearned", every)
        assert recovery.krs == pytest.approx(1.0, abs=1e-4)
        assert recovery.kl == pytest.approx(1.0, abs=1e-4)
        assert recovery.logprob == pytest.approx(1.0, abs=1e-3)


def test_putting_in_what_is_there_already_brings_nothing_back(patched: Patched) -> None:
    readings = patched("last block")
    for component in ("value vectors", "coefficients", "attention"):
        assert krs(readings, component, (0, 0)) == pytest.approx(0.0, abs=1e-4)
    assert krs(readings, "embedding", None) == pytest.approx(0.0, abs=1e-4)
    assert krs(readings, "readout", None) == pytest.approx(0.0, abs=1e-4)


def test_two_equal_models_answer_from_each_others_states_and_leave_nothing_to_restore(patched: Patched) -> None:
    readings = patched("base")
    assert facts_mean(readings, readings.state_share("unlearned")) == pytest.approx(1.0, abs=1e-4)
    assert facts_mean(readings, readings.readout_share("unlearned")) == pytest.approx(1.0, abs=1e-4)
    assert facts_mean(readings, readings.depth("unlearned")) == pytest.approx(0.0, abs=1e-4)
    assert facts_mean(readings, readings.depth("unlearned", "retained")) == pytest.approx(0.0, abs=1e-4)
    every = restored(readings, "all but the readout", (0, N_LAYERS - 1))
    assert readings.recovery("unlearned", every).krs is None
    assert measured(readings, "restoration").not_measured is not None
    assert edit_class(readings.edit_numbers("unlearned")).name == "no change"


def test_random_weights_hold_nothing_and_read_nothing(patched: Patched) -> None:
    readings = patched("random")
    assert facts_mean(readings, readings.readout_share("unlearned")) < 0.02
    assert facts_mean(readings, readings.state_share("unlearned")) < 0.2  # blocks above ask again
    assert facts_mean(readings, readings.depth("unlearned")) > 0.5
    assert facts_mean(readings, readings.written_share("unlearned")) < 0.1


def test_activations_of_another_question_bring_back_less(patched: Patched) -> None:
    readings, every = patched("never"), (0, N_LAYERS - 1)
    for component in ("coefficients", "attention"):
        assert krs(readings, component, every) > krs(readings, component, every, floor=True) + 0.2


# ---- planted cases


def test_a_refusal_in_the_last_block_leaves_the_states_and_changes_the_readout(patched: Patched) -> None:
    readings = patched("last block")
    assert np.abs(readings.drop("unlearned")[:-1, readings.facts]).max() < 1e-3
    assert facts_mean(readings, readings.readout_share("unlearned")) < 0.05
    assert facts_mean(readings, readings.written_share("unlearned")) > 0.9
    assert facts_mean(readings, readings.carried_share("unlearned")) > 0.99
    assert facts_mean(readings, readings.depth("unlearned")) < 0.35
    assert edit_class(readings.edit_numbers("unlearned")).name == "bypass"


def test_edited_value_vectors_bring_everything_back_and_name_their_layer(patched: Patched) -> None:
    readings, place = patched("value vectors"), (PLANTED[0], PLANTED[0])
    assert krs(readings, "value vectors", place) == pytest.approx(1.0, abs=1e-4)
    assert krs(readings, "value vectors", (0, 0)) == pytest.approx(0.0, abs=1e-4)
    found = edit_class(readings.edit_numbers("unlearned"))
    assert found.name == "edit"
    assert f"value vectors of layer {PLANTED[0]}" in found.sentence


def test_blocks_restored_to_a_model_that_never_knew_hold_the_facts_nowhere(patched: Patched) -> None:
    readings = patched("never")
    drop = readings.drop("unlearned")[:, readings.facts]
    below = list(range(PLANTED[0]))
    assert np.abs(drop[below]).max() < 1e-3  # the models are equal there
    assert drop[PLANTED[0] :].mean(axis=1).min() > 1.0
    reads = readings.from_base["unlearned"].likelihood[below][:, readings.facts]
    assert reads.mean() < 0.3  # though it is given the base's states
    assert facts_mean(readings, readings.written_share("unlearned")) < 0.4
    assert edit_class(readings.edit_numbers("unlearned")).name == "absence"


def test_a_model_that_never_knew_has_the_whole_depth_of_the_retained_model(patched: Patched) -> None:
    score = patched("never").depth("unlearned", "retained")
    np.testing.assert_allclose(score[np.isfinite(score)], 1.0)
    assert facts_mean(patched("never"), score) > facts_mean(
        patched("last block"), patched("last block").depth("unlearned", "retained")
    )


def test_controls_lose_nothing_where_the_model_is_intact(patched: Patched) -> None:
    for name in ("last block", "value vectors"):
        readings = patched(name)
        assert np.nanmean(readings.depth("unlearned")[readings.controls]) < 0.05
        assert np.nanmean(readings.state_share("unlearned")[readings.controls]) > 0.95


def test_the_lens_finds_the_answers_of_a_late_refusal_and_no_others(patched: Patched) -> None:
    late, never = measured(patched("last block"), "lens_budget"), measured(patched("never"), "lens_budget")
    assert late.value is not None
    assert never.value is not None
    assert late.control is not None
    assert late.value > 0.8
    assert late.value > never.value
    assert late.control.value is not None
    assert late.value > late.control.value
    for name in ("base", "unlearned", "other answers", "random tokens", "candidates"):
        curve = [float(row[name] or 0) for row in late.items]
        assert curve == sorted(curve)


# ---- metrics, cost and the collector


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_has_a_number_and_states_its_cost(name: str, patched: Patched) -> None:
    measurement = measured(patched("never"), name)
    assert measurement.value is not None
    assert measurement.details["forward_passes"] == patched("never").passes
    assert measurement.details["facts"] == len(FORGET) * len(RELATIONS)


def test_without_a_retained_model_its_score_is_not_measured(world: World) -> None:
    readings = world.patched("never")
    assert measured(readings, "unlearning_depth_score").not_measured == "there is no retained model (--retained)"
    assert measured(readings, "erasure_depth").value is not None


def test_the_class_is_said_in_words_that_do_not_claim_calibration(patched: Patched) -> None:
    measurement = measured(patched("last block"), "edit_class")
    assert measurement.summary is not None
    assert "bypass" in measurement.summary
    assert "not calibrated" in measurement.summary


def test_the_passes_are_those_that_the_plan_counts(world: World, patched: Patched) -> None:
    readings = patched("never")
    architecture = world.open("base").architecture
    assert readings.passes == round(forward_passes(readings.items, architecture, others=2))


def test_the_plan_adds_the_tokens_and_names_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = open_pair(world.folder / "base", world.folder / "never")
    plans = []
    for reason in ({}, {"patching": "not run"}):
        monkeypatch.setattr("audit.commands.plan.not_collected", lambda settings, reason=reason: reason)
        plans.append(plan_pair(pair, request=Request(["italy"]), settings=Settings(attacks="none")))
    with_patching, without = plans
    assert with_patching.forward_tokens > without.forward_tokens
    missing = {row.metric: row.missing for row in without.metrics}
    assert [missing[name] for name in METRICS] == ["not run"] * len(METRICS)


def test_models_are_as_before_when_they_have_been_read(world: World) -> None:
    opened = helpers.opening.open_model(world.folder / "base")
    base, unlearned = opened.load(), world.open("never")
    before = {name: tensor.clone() for name, tensor in unlearned.model.state_dict().items()}
    collector = PatchCollector(opened.checkpoint, opened.checkpoint, Settings(attacks="full"))
    items = items_of(base)
    collector.read(base, "base", items, {prompt.id: True for prompt in items.written})
    collector.read(unlearned, "unlearned", items, {})
    after = unlearned.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unlearned.model.modules())


def test_a_base_that_says_nothing_is_the_reason(world: World) -> None:
    opened = helpers.opening.open_model(world.folder / "base")
    model = opened.load()
    collector = PatchCollector(opened.checkpoint, opened.checkpoint, Settings(attacks="full"))
    collector.read(model, "base", items_of(model), {})
    collector.read(model, "unlearned", items_of(model), {})
    assert not collector.wants_base
    assert str(collector.result()).startswith("the base says fewer than two facts")


def test_an_audit_reads_them_with_full_attacks_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.topic_reader.possible_attacks", lambda topic, settings: {})
    pair = open_pair(world.folder / "base", world.folder / "last block")
    topic = ConceptTopic(CONCEPT)
    changed = compare_weights(pair, weights_metrics())
    for attacks, expected in (("full", PatchReadings), ("quick", type(None))):
        context = RunContext(settings=Settings(attacks=attacks))
        collected = read_models(pair, [topic], changed, context)[topic.name].collected
        assert isinstance(collected, expected), collected
        if isinstance(collected, PatchReadings):
            assert edit_class(collected.edit_numbers("unlearned")).name == "bypass"
