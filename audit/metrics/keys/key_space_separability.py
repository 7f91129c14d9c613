"""How well a linear classifier distinguishes the concept's questions from unrelated ones in FFN key space, by layer.

Cross-validated AUC of a regularised linear classifier on the key vectors at the last prompt token. The null permutes
labels and corrects for the choice of the layer (``concepts.keyspace``). A model can distinguish a topic and know
nothing about it: a high value is no evidence of knowledge.
"""

from __future__ import annotations

from audit.metrics.contract import Evidence
from audit.result import Control, Measured, not_measured
from concepts.keyspace import FOLDS, PERMUTATIONS, SMALLEST_SET, separability

TITLE = "Separability of the {topic} in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    sizes = {kind: len(keys) for kind, keys in evidence.readings["base"].keys.items()}
    if min(sizes.values()) < SMALLEST_SET:
        return not_measured(
            f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
            f"{SMALLEST_SET} of each are needed"
        )
    by_role = {
        role: separability(readings.keys["target"], readings.keys["unrelated"], seed=evidence.seed)
        for role, readings in evidence.readings.items()
    }
    base, unlearned = by_role["base"], by_role["unlearned"]
    layer = base.best
    return Measured(
        value=float(unlearned.auc[layer]),
        base=float(base.auc[layer]),
        retained=float(by_role["retained"].auc[layer]) if "retained" in by_role else None,
        unit=f"AUC at layer {layer}, where the base separates best",
        direction="knowledge",
        n=sum(sizes.values()),
        p_value=float(unlearned.p_values[layer]),
        null="labels permuted within folds; the highest AUC over all layers each time",
        control=Control(name="labels permuted", value=float(unlearned.null[layer])),
        layers={role: result.auc.tolist() for role, result in by_role.items()},
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
