"""The metrics, in folders by level of evidence: each file is one, and adding a file adds a metric.

``weights/`` reads weight tensors alone (``WeightsMetric``); every other level reads what was gathered about a topic
(``Metric``). The file's name is the metric's name everywhere: command line, JSON key, HTML anchor.
"""

from __future__ import annotations

import pkgutil
from functools import cache

from audit.metrics.contract import Metric
from audit.metrics.weights import weights_metrics
from audit.plugins import discover

__all__ = ["concept_metrics", "weights_metrics"]


@cache
def concept_metrics() -> dict[str, Metric]:
    """The metrics that read what a pair of models does with one concept, of all levels, in alphabetical order."""
    levels = [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg and info.name != "weights"]
    found = {name: module for level in levels for name, module in discover(f"{__name__}.{level}", Metric).items()}
    return dict(sorted(found.items()))
