"""Is the concept's region of key space still where it was? Share of each model's questions inside the other's.

The region is what lies as near to the centre of half of a model's questions as nine tenths of these do
(``concepts.keyspace.typical``); the other half is asked whether it lies inside, the base's region unless it is said
whose. The layer is the one where the base's own other half lies inside most while unrelated questions do not.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.result import Control, Measured, not_measured
from audit.statistics import share_interval
from concepts.keyspace import typical

TITLE = "Overlap of the {topic}'s regions in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 8


def measure(evidence: Evidence) -> Measured:
    keys = {role: readings.keys["target"] for role, readings in evidence.readings.items()}
    others = {role: readings.keys["unrelated"] for role, readings in evidence.readings.items()}
    n, beside = len(keys["base"]), len(others["base"])
    if min(n, beside) < SMALLEST_SET:
        reason = f"{n} questions about the concept and {beside} unrelated ones; {SMALLEST_SET} of each are needed"
        return not_measured(reason)
    order = np.random.default_rng(evidence.seed).permutation(n)
    fit, held = order[: n // 2], order[n // 2 :]
    asked = {role: found[held] for role, found in keys.items()} | {
        f"not {role}": found for role, found in others.items()
    }
    inside = typical(keys["base"][fit], np.concatenate([*asked.values()]))  # [n_layers, n] bool
    ends = np.cumsum([len(found) for found in asked.values()])[:-1]
    of = dict(zip(asked, np.split(inside, ends, axis=1), strict=True))
    own, after, unrelated, retained = of["base"], of["unlearned"], of["not unlearned"], of.get("retained")
    before = typical(keys["unlearned"][fit], keys["base"][held])
    layer = int((own.mean(axis=1) - of["not base"].mean(axis=1)).argmax())
    return Measured(
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
            "base": own.mean(axis=1).tolist(),
            "unlearned": after.mean(axis=1).tolist(),
            "base in unlearned's": before.mean(axis=1).tolist(),
            "unrelated": unrelated.mean(axis=1).tolist(),
        },
        details={
            "layer": layer,
            "base_in_the_unlearned_region": float(before[layer].mean()),
            "fitted_on": len(fit),
            "chosen_by": "own other half inside less unrelated questions inside, in the base",
            "seed": evidence.seed,
        },
    )
