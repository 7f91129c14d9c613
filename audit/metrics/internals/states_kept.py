"""Does the base read the answers from the unlearned model's states? One half of the two-way patch.

The unlearned model's residual stream is put into the base after each block, at the positions that predict the answer.
1: the base answers as from its own states; 0: as from its own states after a question about another subject. Layers are
weighted with that difference. What makes it wrong: the base's blocks above may read the fact off the question again,
so a model that never knew does not reach 0. ``readout_kept`` is the other half.
"""

from __future__ import annotations

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, by_layer, control_of, counts, over_facts, patching_of, rows
from audit.result import Measured, not_measured

__all__ = ["NEEDS"]

TITLE = "Answers that the base reads from the unlearned model's states"


def measure(evidence: Evidence) -> Measured:
    readings, seed = patching_of(evidence), evidence.seed
    values = {role: readings.state_share(role) for role in readings.from_base}
    mean = over_facts(readings, values["unlearned"], seed)
    if mean.value is None:
        return not_measured("in no layer does another subject's state change what the base answers")
    return Measured(
        value=mean.value,
        interval=mean.interval,
        base=1.0,
        retained=over_facts(readings, values["retained"], seed).value if "retained" in values else None,
        unit="share of the base's likelihood of the answer",
        direction="knowledge",
        n=len(mean.scores),
        control=control_of(readings, values["unlearned"], seed),
        layers={
            "another subject" if source == "other" else source: by_layer(readings, scores.likelihood)
            for source, scores in readings.into_base.items()
        },
        layers_unit="likelihood of the answer in the base with that state after each block",
        items=rows(readings, values),
        details={**counts(readings), "seed": seed},
    )
