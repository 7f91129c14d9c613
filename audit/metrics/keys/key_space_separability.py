"""Are the concept's questions told from unrelated ones in FFN key space? By layer, before and after.

Cross-validated AUC of a regularised linear rule on the key vectors at the last prompt token, with a label-permutation
null in which the choice of the layer is paid for (``concepts.keyspace``). A model can tell a topic apart and know
nothing of it: this shows whether the region is there, not whether it is filled.
"""

from __future__ import annotations

from collections.abc import Mapping

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Control, Measured, not_measured
from concepts.keyspace import FOLDS, PERMUTATIONS, SMALLEST_SET, Separability, separability

TITLE = "Separability of the {topic} in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    sizes = {kind: len(keys) for kind, keys in evidence.readings["base"].keys.items()}
    if min(sizes.values()) < SMALLEST_SET:
        return not_measured(
            f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
            f"{SMALLEST_SET} of each are needed"
        )
    found = {role: _separability(readings, evidence.seed) for role, readings in evidence.readings.items()}
    base, unlearned = found["base"], found["unlearned"]
    layer = base.best
    return Measured(
        value=float(unlearned.auc[layer]),
        base=float(base.auc[layer]),
        retained=float(found["retained"].auc[layer]) if "retained" in found else None,
        unit=f"AUC at layer {layer}, where the base separates best",
        direction="knowledge",
        n=sum(sizes.values()),
        p_value=float(unlearned.p_values[layer]),
        null="labels permuted within folds; the highest AUC over all layers each time",
        control=Control(name="labels permuted", value=float(unlearned.null[layer])),
        layers=_layers(found),
        details={
            "layer": layer,
            "p_value_base": base.p_value,
            "best_layer_unlearned": unlearned.best,
            "folds": FOLDS,
            "permutations": PERMUTATIONS,
            "questions": sizes,
            "seed": evidence.seed,
        },
    )


def _separability(readings: Readings, seed: int) -> Separability:
    return separability(readings.keys["target"], readings.keys["unrelated"], seed=seed)


def _layers(found: Mapping[str, Separability]) -> dict[str, list[float | None]]:
    return {role: [float(value) for value in result.auc] for role, result in found.items()}
