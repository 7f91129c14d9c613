"""Share of the concept's questions in the unlearned model that lie inside the base's region of key space.

The region is fitted to half of the base's questions about the concept: every point as near to their centre as nine
tenths of them are (``concepts.keyspace.typical``). The other half is tested, in every model. The layer is the one where
the share of the base's tested questions inside exceeds that of unrelated questions most. ``layers`` also has the
reverse: the base's questions inside the unlearned model's region.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from audit.metrics.contract import Evidence
from audit.result import Control, Measured, not_measured
from audit.statistics import share_interval
from concepts.keyspace import typical

TITLE = "Overlap of the {topic}'s regions in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 8


def measure(evidence: Evidence) -> Measured:
    target = {role: readings.keys["target"] for role, readings in evidence.readings.items()}
    others = {role: readings.keys["unrelated"] for role, readings in evidence.readings.items()}
    n, n_unrelated = len(target["base"]), len(others["base"])
    if min(n, n_unrelated) < SMALLEST_SET:
        reason = f"{n} questions about the concept and {n_unrelated} unrelated ones; {SMALLEST_SET} of each are needed"
        return not_measured(reason)
    order = np.random.default_rng(evidence.seed).permutation(n)
    fit, held = order[: n // 2], order[n // 2 :]
    tested = {("target", role): keys[held] for role, keys in target.items()}
    tested |= {("unrelated", role): keys for role, keys in others.items()}
    inside = _inside(target["base"][fit], tested)
    base, unlearned = inside["target", "base"], inside["target", "unlearned"]
    retained, unrelated = inside.get(("target", "retained")), inside["unrelated", "unlearned"]
    reverse = typical(target["unlearned"][fit], target["base"][held])
    layer = int((base.mean(axis=1) - inside["unrelated", "base"].mean(axis=1)).argmax())
    return Measured(
        value=float(unlearned[layer].mean()),
        interval=share_interval(unlearned[layer]),
        base=float(base[layer].mean()),
        base_interval=share_interval(base[layer]),
        retained=None if retained is None else float(retained[layer].mean()),
        unit=f"share of its questions inside the base's region at layer {layer}",
        direction="knowledge",
        n=len(held),
        control=Control(
            name="unrelated questions", value=float(unrelated[layer].mean()), interval=share_interval(unrelated[layer])
        ),
        layers={
            "base": base.mean(axis=1).tolist(),
            "unlearned": unlearned.mean(axis=1).tolist(),
            "base in unlearned's": reverse.mean(axis=1).tolist(),
            "unrelated": unrelated.mean(axis=1).tolist(),
        },
        details={
            "layer": layer,
            "base_in_the_unlearned_region": float(reverse[layer].mean()),
            "fitted_on": len(fit),
            "chosen_by": "own other half inside less unrelated questions inside, in the base",
            "seed": evidence.seed,
        },
    )


def _inside(
    fit: Float[np.ndarray, "n_fit n_layers d_mlp"],
    keys: Mapping[tuple[str, str], Float[np.ndarray, "_ n_layers d_mlp"]],
) -> dict[tuple[str, str], Bool[np.ndarray, "n_layers _"]]:
    """(Kind, role) -> whether each key vector lies in the region of ``fit``, by layer. The region is fitted once."""
    inside = typical(fit, np.concatenate([*keys.values()]))
    ends = np.cumsum([len(rows) for rows in keys.values()])[:-1]
    return dict(zip(keys, np.split(inside, ends, axis=1), strict=True))
