"""What a metric is read from: its inputs and its folder tell, so that a new one needs no entry anywhere."""

from __future__ import annotations

import pytest

from audit.metrics import source_of, topic_metrics
from audit.result import Source


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("answer_accuracy", "answers"),
        ("perplexity", "answers"),
        ("association", "internals"),
        ("centroid_shift", "internals"),
        ("vector_cosine", "weights"),
        ("jailbreak_recovery", "attacks"),
    ],
)
def test_a_metric_is_read_from_answers_internals_weights_or_the_model_under_attack(name: str, source: Source) -> None:
    assert source_of(name) == source


def test_only_metrics_that_run_no_model_are_read_from_the_weights() -> None:
    metrics = topic_metrics()
    assert {name for name in metrics if source_of(name) == "weights"} == {
        name for name, metric in metrics.items() if "model" not in metric.NEEDS
    }
