"""Perplexity on neutral text tells a broken model from a silent one."""

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


def of(*losses: float) -> Readings:
    items = tuple(item("text", index) for index in range(len(losses)))
    return Readings(items=items, answer_logprobs=tuple(np.full(3, -loss) for loss in losses))


def test_it_is_the_exponential_of_the_mean_loss_over_paragraphs() -> None:
    found = perplexity.measure(evidence_of({"base": of(1.0, 3.0), "unlearned": of(2.0, 4.0)}))
    assert found.base == pytest.approx(math.exp(2))
    assert found.value == pytest.approx(math.exp(3))
    assert found.details["ratio_to_base"] == pytest.approx(math.e)
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]


def test_an_overflowing_loss_is_not_measured() -> None:
    found = perplexity.measure(evidence_of({"base": of(1.0), "unlearned": of(900.0)}))
    assert "overflow" in str(found.not_measured)


def test_without_text_it_is_not_measured() -> None:
    found = perplexity.measure(evidence_of({"base": of(), "unlearned": of()}))
    assert found.not_measured == "no neutral text was read"
