"""Residuals of few facts, and the comparison with a reference at every place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from audit.knowledge.exchange import Block
from audit.knowledge.knowledge import Knowledge
from audit.knowledge.readings import FactReadings, Place
from audit.knowledge.residual import left_of, paired
from audit.questions.conditions import AS_IS, Condition
from tests.knowledge.planted import IGNORES, RELEARNED, TYPES, Planted, facts, knowledge

RARE = Condition("paraphrase", "in de")
LAYERS = (Place(), Place(1), Place(2), Place(3))


def few(readings: FactReadings, n: int) -> FactReadings:
    """The condition as if it had asked about the first ``n`` facts alone."""
    kept = [np.flatnonzero(block.facts < n) for block in readings.blocks]
    blocks = tuple(
        Block(block.facts[rows], block.scores[:, rows][:, :, rows])
        for block, rows in zip(readings.blocks, kept, strict=True)
        if len(rows) > 1
    )
    return replace(readings, blocks=blocks)


@pytest.mark.parametrize(("n", "counts"), [(8, False), (39, False), (41, True), (80, True)])
def test_a_condition_that_reads_few_facts_has_no_residual(n: int, counts: bool) -> None:
    known = knowledge({AS_IS: IGNORES, RARE: Planted(3.0)})
    own = dict(known.models["unlearned"])
    own[str(RARE)] = few(own[str(RARE)], n)
    known = replace(known, models={**known.models, "unlearned": own})
    left = left_of(known)
    assert left is not None
    assert (str(RARE) in {share.condition for share in left.shares}) == counts
    assert (left.most.condition == str(RARE)) == counts
    assert str(RARE) in known.tests, "the exchange test has it"
    plain = left_of(replace(known, models={**known.models, "unlearned": {str(AS_IS): own[str(AS_IS)]}}))
    assert plain is not None
    assert left.least_detectable is not None
    assert plain.least_detectable is not None
    assert counts or left.least_detectable == pytest.approx(plain.least_detectable)


def test_what_is_far_below_the_reference_does_not_raise_the_least_detectable_residual() -> None:
    others = dict.fromkeys((AS_IS, RELEARNED), Planted(1.0))
    reference = {**others, RARE: Planted(3.0)}

    def least(raised: float) -> float:
        known = knowledge({**others, RARE: Planted(raised)}, reference=reference, guessable=True)
        left = left_of(known)
        assert left is not None
        assert left.least_detectable is not None
        return left.least_detectable

    without = left_of(knowledge(others, reference=others, guessable=True))
    assert without is not None
    assert least(-3.0) == pytest.approx(without.least_detectable, rel=0.2)
    assert least(3.0) >= least(-3.0)


def at_places(nats: Sequence[float], scale: Sequence[float], seed: int) -> FactReadings:
    """A model that was relearned, in whose places the true answers are raised by ``nats``."""
    known = facts(12, TYPES)
    rng = np.random.default_rng(seed)
    half = np.array([int(subject.split()[1]) % 2 for subject in known.subjects])
    blocks = []
    for fold in (0, 1):
        for type_ in TYPES:
            rows = np.array([i for i in range(len(known.ids)) if known.types[i] == type_ and half[i] == fold])
            m = len(rows)
            scores = [
                rng.normal(0, 1, (m, m)) * size + raised * size * np.eye(m)
                for raised, size in zip(nats, scale, strict=True)
            ]
            blocks.append(Block(rows, np.array(scores)))
    says = np.zeros(len(known.ids))
    return FactReadings(RELEARNED, LAYERS[: len(nats)], tuple(blocks), says, half)


SCALE = (1, 0.1, 5, 30)
"""Of the scores at each place."""


def compared(nats: Sequence[float], seed: int, sureness: float = 1.0) -> Knowledge:
    """An unlearned model and a reference that guesses as well at every place, ``sureness`` times less surely."""
    known = knowledge({AS_IS: IGNORES}, facts=facts(12, TYPES), guessable=True, seed=seed)
    surer = [each * sureness for each in SCALE]
    models = {
        "unlearned": {str(RELEARNED): at_places(nats, surer, 2 * seed)},
        "reference": {str(RELEARNED): at_places([1.0] * len(nats), SCALE, 2 * seed + 1)},
    }
    return replace(known, models={**known.models, **models})


@pytest.mark.parametrize("sureness", [1.0, 4.0, 0.25])
def test_a_model_that_guesses_as_the_reference_does_gives_uniform_p_values_over_all_places(sureness: float) -> None:
    """Also where training made one of the two surer: SmolLM2 after training on another author was, by 1 nat."""
    found = [paired(compared([1.0] * 4, seed, sureness), str(RELEARNED)) for seed in range(80)]
    p_values = np.array([each.p_value for each in found if each is not None])
    assert len(p_values) == 80
    assert (p_values < 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 80)
    assert 0.35 < p_values.mean() < 0.65


@pytest.mark.parametrize("place", range(4))
def test_more_than_the_reference_is_found_at_any_place(place: int) -> None:
    nats = [1.0] * 4
    nats[place] = 3.0
    found = paired(compared(nats, 3), str(RELEARNED))
    assert found is not None
    assert found.place == LAYERS[place]
    assert found.p_value < 0.01
    assert (found.difference > 0.5) == (place == 0), "the difference is that of the output"


def test_less_than_the_reference_is_not_more() -> None:
    found = paired(compared([0.0] * 4, 4), str(RELEARNED))
    assert found is not None
    assert found.p_value > 0.5
    assert found.difference < 0


def test_without_the_condition_in_both_models_nothing_is_compared() -> None:
    assert paired(compared([1.0] * 4, 5), str(AS_IS)) is None


@pytest.mark.parametrize("left", [0.0, 0.4])
def test_the_interval_holds_the_share_though_one_of_many_conditions_was_chosen(left: float) -> None:
    """Twelve conditions show the same share, each with its own chance; the interval pays for the choice."""
    held, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        known = knowledge({AS_IS: IGNORES}, seed=seed)
        taught = rng.permutation(len(known.facts.ids)) < left * len(known.facts.ids)
        own = [partly(known.models["unlearned"][str(AS_IS)], taught, number, rng) for number in range(12)]
        found = left_of(
            replace(known, models={**known.models, "unlearned": {str(each.condition): each for each in own}})
        )
        assert found is not None
        assert found.most.interval is not None
        assert found.most.value is not None
        low, high = found.most.interval
        held.append(low <= left <= high)
        errors.append(found.most.value - left)
    assert np.mean(held) >= 0.9
    assert abs(np.mean(errors)) < 0.06


def partly(readings: FactReadings, taught: np.ndarray, number: int, rng: np.random.Generator) -> FactReadings:
    """A condition under which the ``taught`` facts can be read, and the others cannot."""
    blocks = []
    for block in readings.blocks:
        m = len(block.facts)
        scores = rng.normal(0, 1, (1, m, m)) + 6 * np.diag(taught[block.facts].astype(float))
        blocks.append(Block(block.facts, scores))
    condition = AS_IS if number == 0 else Condition("paraphrase", f"wording {number}")
    return replace(readings, condition=condition, blocks=tuple(blocks))
