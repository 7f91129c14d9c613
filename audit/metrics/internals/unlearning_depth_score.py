"""The unlearning depth score (arXiv 2605.24614): how deep the unlearned model lost what a retained model lacks.

``D1`` is the fall of the base's log-probability of the answer with the retained model's residual stream after a block,
at the positions that predict the answer; ``D2`` the same with the unlearned model's. A block with ``D1 > 0.05`` encodes
the fact. The score of a fact is the mean of ``clip(D2 / D1, 0, 1)`` over these, weighted with ``D1``: 1 as in the
retained model, 0 intact. Facts without such a block are left out. ``erasure_depth`` needs no retained model.
"""

from __future__ import annotations

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, RETAINED, by_layer, counts, over_facts, patching_of, rows
from audit.patching.readings import DROP
from audit.result import Measured, not_measured

__all__ = ["NEEDS"]

TITLE = "Unlearning depth score"


def measure(evidence: Evidence) -> Measured:
    readings, seed = patching_of(evidence), evidence.seed
    if RETAINED not in readings.into_base:
        return not_measured("there is no retained model (--retained)")
    values = readings.depth("unlearned", RETAINED)
    mean = over_facts(readings, values, seed)
    if mean.value is None:
        return not_measured("the retained model's states change none of the base's answers, so no layer encodes a fact")
    return Measured(
        value=mean.value,
        interval=mean.interval,
        base=0.0,
        retained=1.0,
        unit="share of the fall by the retained model's states",
        direction="forgetting",
        n=len(mean.scores),
        layers={role: by_layer(readings, readings.drop(role)) for role in ("unlearned", RETAINED)},
        layers_unit="fall of the base's log-probability, nats per answer token",
        items=rows(readings, {"unlearned": values}),
        details={**counts(readings), "smallest_fall": DROP, "seed": seed},
    )
