"""Perplexity on neutral text distinguishes a broken model from a silent one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from audit.metrics.answers import perplexity
from audit.questions.readings import Readings
from tests.metrics.planted import evidence, evidence_of, item


def test_only_a_destroyed_model_has_a_high_perplexity() -> None:
    values = {case: perplexity.measure(evidence(case)) for case in ("present", "hidden", "removed", "destroyed")}
    assert values["present"].value == values["hidden"].value == values["removed"].value == values["present"].base
    assert values["destroyed"].value > 1e6 * values["present"].base


def text_readings(*losses: float) -> Readings:
    """Readings of neutral paragraphs with these losses per token."""
    items = tuple(item("text", index) for index in range(len(losses)))
    return Readings(items=items, answer_logprobs=tuple(np.full(3, -loss) for loss in losses))


def test_it_is_the_exponential_of_the_mean_loss_over_paragraphs() -> None:
    base, unlearned = text_readings(1.0, 3.0), text_readings(2.0, 4.0)
    measurement = perplexity.measure(evidence_of({"base": base, "unlearned": unlearned}))
    assert measurement.base == pytest.approx(math.exp(2))
    assert measurement.value == pytest.approx(math.exp(3))
    assert measurement.details["ratio_to_base"] == pytest.approx(math.e)
    assert measurement.interval is not None
    assert measurement.interval[0] <= measurement.value <= measurement.interval[1]


def test_an_overflowing_loss_is_not_measured() -> None:
    measurement = perplexity.measure(evidence_of({"base": text_readings(1.0), "unlearned": text_readings(900.0)}))
    assert "overflow" in str(measurement.not_measured)


def test_without_text_it_is_not_measured() -> None:
    measurement = perplexity.measure(evidence_of({"base": text_readings(), "unlearned": text_readings()}))
    assert measurement.not_measured == "no neutral text was read"
