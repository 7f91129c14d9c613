"""What training brings back: the peak over the steps, and the steps to half of what the base shows."""

from __future__ import annotations

import pytest

from audit.knowledge.summary import recoveries
from audit.result import ConditionRecord, ModelReading, Recovery


def row(
    steps: int | None, arm: str = "half", attack: str | None = "relearning", **readable: float | None
) -> ConditionRecord:
    """One condition; of the unmodified model without ``steps``."""
    return ConditionRecord(
        condition=f"{arm} {steps}",
        attack=attack if steps else None,
        title="",
        dose="",
        arm=arm if steps else "",
        steps=steps,
        models=[ModelReading(model=model, readable=value) for model, value in readable.items()],
    )


PLAIN = row(None, base=0.8, unlearned=0.1)


def test_the_peak_and_the_steps_to_half_of_the_base() -> None:
    rows = [PLAIN, row(2, unlearned=0.39), row(10, unlearned=0.6), row(30, unlearned=0.5)]
    assert recoveries(rows) == [
        Recovery(attack="relearning", arm="half", model="unlearned", peak=0.6, peak_steps=10, steps_to_half=10)
    ]


def test_a_model_that_shows_half_as_it_is_needs_no_steps() -> None:
    found = recoveries([row(None, base=0.8, unlearned=0.4), row(2, unlearned=0.3)])
    assert (found[0].peak, found[0].peak_steps, found[0].steps_to_half) == (0.4, 0, 0)


def test_half_that_is_not_reached_is_no_number() -> None:
    found = recoveries([PLAIN, row(2, unlearned=0.2)])
    assert (found[0].peak, found[0].steps_to_half) == (0.2, None)


def test_a_base_that_shows_nothing_has_no_half() -> None:
    found = recoveries([row(None, base=0.0, unlearned=0.0), row(2, unlearned=0.5)])
    assert (found[0].peak, found[0].steps_to_half) == (0.5, None)


def test_arms_and_models_are_apart_and_what_was_not_read_has_no_peak() -> None:
    rows = [PLAIN, row(2, unlearned=0.3, twin=0.7), row(2, "filler", unlearned=None), row(5, "filler", unlearned=0.2)]
    found = {(each.arm, each.model): (each.peak, each.steps_to_half) for each in recoveries(rows)}
    assert found == {
        ("half", "unlearned"): (0.3, None),
        ("half", "twin"): (0.7, 2),
        ("filler", "unlearned"): (0.2, None),
    }


def test_a_set_whose_own_loss_did_not_fall_taught_nothing() -> None:
    taught, not_taught = (trained(loss) for loss in ((3.0, 0.6), (3.0, 2.7)))
    assert (taught.taught, taught.taught_nothing) == (pytest.approx(0.8), False)
    assert (not_taught.taught, not_taught.taught_nothing) == (pytest.approx(0.1), True)
    unread = recoveries([PLAIN, row(2, unlearned=0.3)])[0]
    assert (unread.taught, unread.taught_nothing) == (None, False)


def trained(loss: tuple[float, float]) -> Recovery:
    """After 2 steps the loss is as before, after 10 it is as given."""
    steps = [row(2, unlearned=0.3), row(10, unlearned=0.3)]
    for each, (before, after) in zip(steps, ((loss[0], loss[0]), loss), strict=True):
        each.models[0] = each.models[0].model_copy(update={"trained_loss": (before, after)})
    return recoveries([PLAIN, *steps])[0]


def test_an_attack_that_does_not_train_has_no_recovery() -> None:
    assert recoveries([PLAIN, row(None, unlearned=0.5)]) == []
