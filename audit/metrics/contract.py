"""What a metric of a topic is: the names that its file defines, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from audit.models.pair import ModelPair
from audit.questions.readings import Readings
from audit.vectors.trace import TracedVectors


class Metric(Protocol):
    """A file of ``metrics/LEVEL/``."""

    TITLE: str
    NEEDS: frozenset[str]

    def measure(self, subjects: Any, concept: Any, /) -> Any: ...


@dataclass(frozen=True)
class Subjects:
    """Everything measured of base, unlearned and (where given) retained for one concept.

    ``missing`` says why an input of ``NEEDS`` is absent: ``{"model": "no config.json beside the weights", ...}``.
    """

    pair: ModelPair
    readings: Mapping[str, Readings] = field(default_factory=dict)
    vectors: TracedVectors | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
