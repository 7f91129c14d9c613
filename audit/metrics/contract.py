"""The evidence that a metric of a topic reads, and the contract of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from audit.models.pair import ModelPair
from audit.patching.readings import PatchReadings
from audit.questions.conditions import AS_IS, Condition
from audit.questions.readings import Readings
from audit.questions.topics import Topic
from audit.result import Measured
from audit.unlearning.twin import Twin
from audit.vectors.trace import TracedVectors


@dataclass(frozen=True)
class Evidence:
    """The readings of base, unlearned and (where given) retained for one topic.

    Attributes:
        by_condition: condition -> role -> readings.
        vectors: the topic's vectors in base and unlearned, with their controls.
        missing: missing input of ``NEEDS`` -> the reason, e.g. ``{"model": "no config.json ..."}``.
        condition: the condition of ``readings``.
        others: ``"reference"`` and ``"twin"`` -> condition -> readings of the facts alone; empty if there is no such
            model.
        twin: how the twin was made.
        not_run: (role, attack or one of its conditions) -> the reason why it did not run.
        patching: readings of the models with parts of each other in them; ``None`` if ``"patching"`` is missing.
    """

    pair: ModelPair
    topic: Topic
    by_condition: Mapping[Condition, Mapping[str, Readings]] = field(default_factory=dict)
    vectors: TracedVectors | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    condition: Condition = AS_IS
    others: Mapping[str, Mapping[Condition, Readings]] = field(default_factory=dict)
    twin: Twin | None = None
    not_run: Mapping[tuple[str, str], str] = field(default_factory=dict)
    patching: PatchReadings | None = None

    @property
    def readings(self) -> Mapping[str, Readings]:
        """``"base"``, ``"unlearned"`` and, where given, ``"retained"`` -> readings under this condition."""
        return self.by_condition.get(self.condition, {})

    def under(self, condition: Condition) -> Evidence:
        """The same evidence with another condition."""
        return replace(self, condition=condition)

    def conditions(self, attack: str) -> list[Condition]:
        """The conditions of one attack, in the order of the attack."""
        return [condition for condition in self.by_condition if condition.attack == attack]


class Metric(Protocol):
    """A file of ``metrics/LEVEL/`` for every level except ``weights``.

    Attributes:
        TITLE: short title for reports; ``{topic}`` is replaced by the kind of topic (concept, skill).
        NEEDS: required inputs; see ``audit.metrics.inputs``.
    """

    TITLE: str
    NEEDS: frozenset[str]

    def measure(self, evidence: Evidence, /) -> Measured:
        """The number. Called only if every input of ``NEEDS`` exists; starts no forward pass."""
