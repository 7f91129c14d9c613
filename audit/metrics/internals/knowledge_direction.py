"""Whether the update goes back along the direction in which the base moves when it is trained further on the facts.

The cosine of the update with ``d = theta_N - theta_0`` over all matrices of the blocks, where ``theta_N`` is the base
after a few steps on the facts (after arXiv 2309.14054). Task-vector negation has -1, an update that has nothing to do
with the facts ``0 +- 1 / sqrt(n)`` for ``n`` weights; other updates have a small part along it. Read it by layer: what
is suppressed near the output alone has no update below. It says how the weights were moved, not what is left.
"""

from __future__ import annotations

from collections import defaultdict

from audit.architectures.family import split_layer
from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, counts, patching_of
from audit.patching.direction import TRAINING
from audit.result import Measured, not_measured
from audit.unlearning.direction import Along, together

__all__ = ["NEEDS"]

TITLE = "Update along the knowledge direction"


def measure(evidence: Evidence) -> Measured:
    readings = patching_of(evidence)
    parts = readings.along
    if isinstance(parts, str):
        return not_measured(parts)
    whole = together(parts.values())
    if whole.cosine is None:
        return not_measured("no matrix of the blocks was changed")
    layers: dict[int, list[Along]] = defaultdict(list)
    for name, part in parts.items():
        layers[split_layer(name)[1] or 0].append(part)
    series = [together(layers[layer]) for layer in sorted(layers)]
    return Measured(
        value=whole.cosine,
        unit="cosine with the direction of training on the facts",
        direction="knowledge",
        n=len(parts),
        layers={"cosine": [each.cosine for each in series]},
        layers_unit="cosine with the direction of training on the facts",
        items=[{"matrix": name, **part.as_json()} for name, part in parts.items()],
        details={
            **counts(readings),
            "step": whole.step,
            "spread_of_a_random_update": whole.spread,
            "training_steps": TRAINING.steps,
            "learning_rate": TRAINING.learning_rate,
        },
    )
