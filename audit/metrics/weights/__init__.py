"""Metrics of the weight tensors alone: each file is one, fed by the pass of ``audit.weights.scan``.

``audit.weights.contract`` says what a file defines.
"""

from __future__ import annotations

from functools import cache

from audit.plugins import discover
from audit.weights.contract import WeightsMetric, check_contract


@cache
def weights_metrics() -> dict[str, WeightsMetric]:
    """File name -> metric, in alphabetical order.

    Raises:
        PluginError: a file that does not define what ``audit.weights.contract`` asks for.
    """
    metrics = discover(__name__, WeightsMetric)
    check_contract(metrics)
    return metrics
