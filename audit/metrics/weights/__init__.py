"""Metrics of the weight tensors alone, fed by the one pass of ``audit.weights.scan``."""

from __future__ import annotations

from typing import Any, Protocol


class WeightsMetric(Protocol):
    """A file of ``metrics/weights/``."""

    TITLE: str
    Tally: type[Any]
    Observer: type[Any]
