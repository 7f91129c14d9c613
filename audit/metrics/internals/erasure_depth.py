"""The depth score without a retained model: states after another subject's question take the retained model's place.

The base's own residual stream after a question of the same type about another subject has everything of the question
and nothing of the fact. The score is that of ``unlearning_depth_score`` with the fall that this stream causes as the
whole: 0 intact, 1 as far as another subject's states. It also counts what leads to the fact (who is asked about), so a
model that never knew stays below 1, and states that are merely damaged exceed it: read it with the control, the same
patch on questions that were not to be forgotten, where an intact model loses nothing.
"""

from __future__ import annotations

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, by_layer, control_of, counts, over_facts, patching_of, rows
from audit.patching.readings import DROP
from audit.result import Measured, not_measured

__all__ = ["NEEDS"]

TITLE = "Erasure depth, against another subject's states"


def measure(evidence: Evidence) -> Measured:
    readings, seed = patching_of(evidence), evidence.seed
    values = {role: readings.depth(role) for role in readings.from_base}
    mean = over_facts(readings, values["unlearned"], seed)
    if mean.value is None:
        return not_measured("another subject's states change none of the base's answers, so no layer encodes a fact")
    return Measured(
        value=mean.value,
        interval=mean.interval,
        base=0.0,
        retained=over_facts(readings, values["retained"], seed).value if "retained" in values else None,
        unit="share of the fall by another subject's states",
        direction="forgetting",
        n=len(mean.scores),
        control=control_of(readings, values["unlearned"], seed),
        layers={
            "another subject" if source == "other" else source: by_layer(readings, readings.drop(source))
            for source in readings.into_base
        },
        layers_unit="fall of the base's log-probability, nats per answer token",
        items=rows(readings, values),
        details={
            **counts(readings),
            "smallest_fall": DROP,
            "without_limit": readings.damage("unlearned", readings.facts),
            "without_limit_control": readings.damage("unlearned", readings.controls),
            "seed": seed,
        },
    )
