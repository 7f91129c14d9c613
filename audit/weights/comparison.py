"""What changed between the weights of two models, and what the changed neurons write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from audit.models.pair import ModelPair
from audit.models.tokenizer import Tokenizer
from audit.progress import SILENT, Progress
from audit.weights.contract import WeightsMetric
from audit.weights.neurons import describe_neurons
from audit.weights.scan import WeightScan, scan
from audit.weights.themes import METRIC, TITLE


def compare_weights(
    pair: ModelPair,
    metrics: Mapping[str, WeightsMetric],
    tokenizer: Tokenizer | None = None,
    progress: Progress = SILENT,
) -> WeightScan:
    """The pass over the weights, with the neurons that changed most and their common theme.

    Args:
        tokenizer: names the tokens that changed neurons write; without it they have no names.
    """
    scanned = scan(pair, metrics, progress)
    progress.step("Reading changed neurons in vocabulary space")
    neurons = describe_neurons(pair, scanned.neurons, tokenizer)
    measurements = [*scanned.weights.measurements, neurons.measurement.named(METRIC, TITLE, "weights")]
    update = {"top_neurons": neurons.top, "themes": neurons.themes, "measurements": measurements}
    return replace(scanned, weights=scanned.weights.model_copy(update=update))
