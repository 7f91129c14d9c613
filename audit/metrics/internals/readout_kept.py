"""Does the unlearned model answer from the base's states? The other half of the two-way patch; see ``states_kept``.

1: it answers as the base does; 0: as with the base's states after a question about another subject. Only layers count
in which the base's lens does not show the answer yet: later states hand the answer in.

Both halves high: nothing is lost on this path. Only ``states_kept``: what comes after the states, the readout, was
changed. Only ``readout_kept``: what leads to the states. Neither: erased or broken.
"""

from __future__ import annotations

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, by_layer, control_of, counts, over_facts, patching_of, rows
from audit.patching.readings import LENS
from audit.result import Measured, not_measured

__all__ = ["NEEDS"]

TITLE = "Answers that the unlearned model reads from the base's states"


def measure(evidence: Evidence) -> Measured:
    readings, seed = patching_of(evidence), evidence.seed
    values = {role: readings.readout_share(role) for role in readings.from_base}
    mean = over_facts(readings, values["unlearned"], seed)
    if mean.value is None:
        return not_measured(
            "no layer tells: where the base's state matters, its lens already shows the answer, or another subject's "
            "state answers as well"
        )
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
            "base's states": by_layer(readings, readings.from_base["unlearned"].likelihood),
            "another subject's": by_layer(readings, readings.from_other["unlearned"].likelihood),
            "base's lens": by_layer(readings, readings.lens["base"].probability),
        },
        layers_unit="likelihood of the answer in the unlearned model with that state after each block",
        items=rows(readings, values),
        details={**counts(readings), "largest_lens": LENS, "seed": seed},
    )
