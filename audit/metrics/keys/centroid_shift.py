"""How far the concept's questions moved in FFN key space, in units of their own spread. Control: unrelated questions.

Per layer, the distance between the centroids of the key vectors at the last prompt token in base and unlearned, divided
by the root mean squared distance of the base's keys from their centroid. The value is the mean over layers. Undefined
where the base's key vectors do not differ.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from audit.metrics.contract import Evidence
from audit.result import Control, Measured, not_measured
from concepts.keyspace import centroid_shift

TITLE = "Shift of the {topic} in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 2
"""One question has no spread."""


def measure(evidence: Evidence) -> Measured:
    n = len(evidence.readings["base"].keys["target"])
    shift = _shift(evidence, "target", "unlearned")
    if shift is None or not np.isfinite(shift).all():
        reason = f"{n} questions about the concept; {SMALLEST_SET} with different key vectors are needed"
        return not_measured(reason)
    series = {"unlearned": shift, "unrelated questions": _shift(evidence, "unrelated", "unlearned")}
    if "retained" in evidence.readings:
        series["retained"] = _shift(evidence, "target", "retained")
    control = series["unrelated questions"]
    retained = series.get("retained")
    return Measured(
        value=float(shift.mean()),
        base=0.0,
        retained=None if retained is None else float(retained.mean()),
        unit="spreads of the concept's questions in the base",
        direction="change",
        n=n,
        control=None
        if control is None or not np.isfinite(control).all()
        else Control(name="unrelated questions", value=float(control.mean())),
        layers={name: [float(value) for value in values] for name, values in series.items() if values is not None},
        details={"largest_layer": int(shift.argmax()), "largest": float(shift.max())},
    )


def _shift(evidence: Evidence, kind: str, role: str) -> Float[np.ndarray, " n_layers"] | None:
    """``None`` for too few questions."""
    before, after = evidence.readings["base"].keys[kind], evidence.readings[role].keys[kind]
    return centroid_shift(before, after) if len(before) >= SMALLEST_SET else None
