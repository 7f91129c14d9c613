"""What a metric of a topic is given, and the names that its file defines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from audit.models.pair import ModelPair
from audit.questions.conditions import AS_IS, Condition
from audit.questions.readings import Readings
from audit.questions.topics import Topic
from audit.result import Measured
from audit.vectors.trace import TracedVectors


@dataclass(frozen=True)
class Evidence:
    """Everything read of base, unlearned and (where given) retained for one topic.

    Attributes:
        by_condition: condition -> role -> readings.
        vectors: the topic's vectors in base and unlearned, with their controls.
        missing: input of ``NEEDS`` that does not exist -> the reason, e.g. ``{"model": "no config.json ..."}``.
        condition: the one that ``readings`` gives.
    """

    pair: ModelPair
    topic: Topic
    by_condition: Mapping[Condition, Mapping[str, Readings]] = field(default_factory=dict)
    vectors: TracedVectors | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    condition: Condition = AS_IS

    @property
    def readings(self) -> Mapping[str, Readings]:
        """``"base"``, ``"unlearned"`` and, where given, ``"retained"`` -> readings under this condition."""
        return self.by_condition.get(self.condition, {})

    def under(self, condition: Condition) -> Evidence:
        """The same evidence, read under another condition."""
        return replace(self, condition=condition)

    def conditions(self, attack: str) -> list[Condition]:
        """The conditions of one attack, in the order in which it yields them."""
        return [condition for condition in self.by_condition if condition.attack == attack]


class Metric(Protocol):
    """A file of ``metrics/LEVEL/``, the level ``weights`` excepted.

    Attributes:
        TITLE: a few words for people; ``{topic}`` becomes the kind of topic (concept, skill).
        NEEDS: inputs without which it cannot run; see ``audit.metrics.inputs``.
    """

    TITLE: str
    NEEDS: frozenset[str]

    def measure(self, evidence: Evidence, /) -> Measured:
        """The number. Every input of ``NEEDS`` exists; no forward pass is started."""
