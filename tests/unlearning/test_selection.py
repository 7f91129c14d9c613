"""The worst-case forget set: an exact projection; what cannot be forgotten is chosen; less of it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, tokenize
from audit.models.scoring import score
from audit.unlearning.fine_tuning import FineTuning, fine_tune, preserved
from audit.unlearning.methods import npo, worst_case
from audit.unlearning.selection import box_and_sum, hardest_first
from audit.unlearning.training import TrainingSettings
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import write_tiny

NAMES = ("Italy", "France", "Hamlet", "February", "pancreas", "Milan", "cities", "Venice")
ANSWERS = (" Rome", " Paris", " Lyon", " Venice", " Milan", " insulin", " young", " days")
FACTS = [
    Example(f"Question: What is the capital of {name}?\nAnswer:", answer)
    for name, answer in zip(NAMES, ANSWERS, strict=True)
]
OTHERS = [Example("A dog is", " Paris and Lyon"), Example("A puppy is", " twenty")]
SETTINGS = TrainingSettings(learning_rate=1e-3)


def doubled(numbers: Sequence[int]) -> list[Example]:
    """These facts in other words."""
    return [Example(FACTS[number].prompt.replace("?", " in answer?"), FACTS[number].answer) for number in numbers]


@dataclass(frozen=True)
class Taught:
    """A model that knows all facts, two of which are also among what is retained, in other words."""

    model: RunningModel
    planted: tuple[int, ...]
    retain: tuple[Example, ...]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Taught, ...]:
    made = []
    for seed in (0, 1):
        planted = tuple(Random(seed).sample(range(len(FACTS)), 2))
        retain = (*OTHERS, *doubled(planted))
        model = open_model(write_tiny(tmp_path_factory.mktemp("model") / "m", seed=seed))
        for _ in fine_tune(model, [*FACTS, *retain], [150], FineTuning(1e-2)):
            pass
        made.append(Taught(model, planted, retain))
    return tuple(made)


# ---- the projection


def test_three_weights_are_those_of_the_closed_form() -> None:
    # No bound is active: all are lowered by the same amount.
    np.testing.assert_allclose(box_and_sum(np.array([0.9, 0.6, 0.3]), 1), [0.6333333, 0.3333333, 0.0333333], atol=1e-6)
    # The lowest is at 0, the others share 1: each is (v - t) with t = (0.9 + 0.6 - 1) / 2.
    np.testing.assert_allclose(box_and_sum(np.array([0.9, 0.6, -0.8]), 1), [0.65, 0.35, 0.0], atol=1e-9)
    # The highest is at 1, the others share 1.
    np.testing.assert_allclose(box_and_sum(np.array([3.0, 0.6, 0.5]), 2), [1.0, 0.55, 0.45], atol=1e-9)
    # Both bounds are active.
    np.testing.assert_allclose(box_and_sum(np.array([5.0, 0.2, -5.0]), 1.4), [1.0, 0.4, 0.0], atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=12), st.data())
def test_the_projection_is_in_the_box_has_the_sum_and_satisfies_the_conditions(
    values: list[float], data: st.DataObject
) -> None:
    total = data.draw(st.integers(1, len(values) - 1))
    given_values = np.array(values)
    weights = box_and_sum(given_values, total)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.sum() == pytest.approx(total, abs=1e-9)
    shift = given_values - weights  # the multiplier of the sum where no bound is active, beyond it at the bounds
    inside = shift[(weights > 1e-9) & (weights < 1 - 1e-9)]
    zero, one = shift[weights <= 1e-9], shift[weights >= 1 - 1e-9]
    low, high = max(zero, default=-np.inf), min(one, default=np.inf)
    assert np.ptp(inside) < 1e-6 if len(inside) else low <= high + 1e-6
    assert all(low - 1e-6 <= each <= high + 1e-6 for each in inside)


# ---- the choice


def test_what_is_also_retained_in_other_words_is_hardest_to_forget(taught: tuple[Taught, ...]) -> None:
    found = 0
    for each in taught:
        before = {name: value.clone() for name, value in each.model.model.state_dict().items()}
        facts, held = (tokenize(each.model.tokenizer, examples) for examples in (FACTS, each.retain))
        ranking = hardest_first(each.model, facts, held, 2, SETTINGS)
        assert sorted(ranking.order) == [*range(len(FACTS))]
        found += len(set(each.planted) & set(ranking.order[:2]))
        assert all(torch.equal(value, before[name]) for name, value in each.model.model.state_dict().items())
    assert found >= 3  # of 4; 1 by chance


def test_a_loss_is_that_of_one_token(tmp_path: Path) -> None:
    """After a step that changes nothing, it is the mean over an answer's tokens."""
    model = open_model(write_tiny(tmp_path / "model"))
    examples = [Example("It is", " Rome"), Example("They are", " Rome, Venice, Milan, Paris and Lyon")]
    nothing = TrainingSettings(learning_rate=1e-12)
    ranking = hardest_first(model, tokenize(model.tokenizer, examples), [], 1, nothing, rounds=1, steps=1)
    np.testing.assert_allclose(ranking.losses, -score(model, examples).means, rtol=1e-5)


def test_less_of_the_hardest_than_of_random_examples_is_forgotten(taught: tuple[Taught, ...]) -> None:
    model, retain = taught[0].model, taught[0].retain
    options = {"steps": 12, "learning_rate": 1e-3, "retain_weight": 1.0}

    def left_of(numbers: Sequence[int]) -> float:
        with preserved(model):
            chosen = [FACTS[number] for number in numbers]
            npo.unlearn(model, chosen, retain, npo.NPOSettings(**options))  # type: ignore[arg-type]
            return float(score(model, chosen).means.mean())

    with preserved(model):
        settings = worst_case.WorstCaseSettings(share=0.25, **options)  # type: ignore[arg-type]
        record = worst_case.unlearn(model, FACTS, retain, settings)
        prompts = [row["prompt"] for row in record.changed["hardest_first"]]
        worst = [[fact.prompt for fact in FACTS].index(prompt) for prompt in prompts[:2]]
        left = float(score(model, [FACTS[number] for number in worst]).means.mean())
    assert record.examples == {"forget": 2, "retain": 4}
    assert len(prompts) == len(FACTS)
    assert left == pytest.approx(left_of(worst))
    random = [left_of(Random(draw).sample(range(len(FACTS)), 2)) for draw in range(5)]
    assert left > np.mean(random)


@pytest.mark.parametrize("m", [2, 3])
def test_all_of_the_examples_cannot_be_the_hardest(m: int, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    with pytest.raises(AuditError, match=f"{m} of 2 examples"):
        hardest_first(model, tokenize(model.tokenizer, FORGET), [], m, SETTINGS)
    with pytest.raises(AuditError, match="1 of 1 examples"):
        worst_case.unlearn(model, FORGET[:1], RETAIN)


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": 0.0}, {"rounds": 0}, {"selection_steps": 0}])
def test_settings_out_of_range_are_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(AuditError, match=next(iter(wrong))):
        worst_case.WorstCaseSettings(**wrong)  # type: ignore[arg-type]


def test_adapters_rank_too_and_leave_the_model_as_it_is(taught: tuple[Taught, ...]) -> None:
    model, retain = taught[0].model, taught[0].retain
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    facts, held = (tokenize(model.tokenizer, examples) for examples in (FACTS, retain))
    low_rank = TrainingSettings(learning_rate=1e-2, lora_rank=4)
    ranking = hardest_first(model, facts, held, 2, low_rank, rounds=1)
    assert ranking.losses.max() > 1
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
