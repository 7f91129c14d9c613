"""Is the concept's region of key space still where it was? Share of each model's questions inside the other's.

The region is what lies as near to the centre of half of a model's questions as these lie to each other
(``concepts.keyspace.typical``); the other half is asked whether it lies inside. The layer is the one where the base's
own other half lies inside most while unrelated questions do not.
"""

from __future__ import annotations

import numpy as np

from audit.result import Control, Measurement
from audit.statistics import share_interval
from audit.subjects import Subjects
from concepts.concept import Concept
from concepts.keyspace import typical

TITLE = "Overlap of the concept's regions in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 8


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    keys = {role: readings.keys["target"] for role, readings in subjects.readings.items()}
    others = {role: readings.keys["unrelated"] for role, readings in subjects.readings.items()}
    n, beside = len(keys["base"]), len(others["base"])
    if min(n, beside) < SMALLEST_SET:
        reason = f"{n} questions about the concept and {beside} unrelated ones; {SMALLEST_SET} of each are needed"
        return Measurement(metric="key_space_overlap", title=TITLE, not_measured=reason)
    order = np.random.default_rng(subjects.seed).permutation(n)
    fit, held = order[: n // 2], order[n // 2 :]
    own = typical(keys["base"][fit], keys["base"][held])  # [n_layers, n_held] bool
    after = typical(keys["base"][fit], keys["unlearned"][held])
    before = typical(keys["unlearned"][fit], keys["base"][held])
    unrelated = typical(keys["base"][fit], others["unlearned"])
    apart = own.mean(axis=1) - typical(keys["base"][fit], others["base"]).mean(axis=1)
    layer = int(apart.argmax())
    retained = typical(keys["base"][fit], keys["retained"][held]) if "retained" in keys else None
    return Measurement(
        metric="key_space_overlap",
        title=TITLE,
        value=float(after[layer].mean()),
        interval=share_interval(after[layer]),
        base=float(own[layer].mean()),
        base_interval=share_interval(own[layer]),
        retained=None if retained is None else float(retained[layer].mean()),
        unit=f"share of its questions inside the base's region at layer {layer}",
        direction="knowledge",
        n=len(held),
        control=Control(
            name="unrelated questions", value=float(unrelated[layer].mean()), interval=share_interval(unrelated[layer])
        ),
        layers={
            "base in its own region": own.mean(axis=1).tolist(),
            "unlearned in the base's": after.mean(axis=1).tolist(),
            "base in the unlearned's": before.mean(axis=1).tolist(),
            "unrelated in the base's": unrelated.mean(axis=1).tolist(),
        },
        details={
            "layer": layer,
            "base_in_the_unlearned_region": float(before[layer].mean()),
            "fitted_on": len(fit),
            "chosen_by": "own other half inside less unrelated questions inside, in the base",
            "seed": subjects.seed,
        },
    )
