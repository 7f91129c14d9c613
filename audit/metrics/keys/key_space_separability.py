"""Are the concept's questions told from unrelated ones in FFN key space? By layer, before and after.

Cross-validated AUC of a regularised linear rule on the key vectors at the last prompt token, with a label-permutation
null in which the choice of the layer is paid for (``concepts.keyspace``). A model can tell a topic apart and know
nothing of it: this shows whether the region is there, not whether it is filled.
"""

from __future__ import annotations

from collections.abc import Mapping

from audit.metrics.contract import Subjects
from audit.questions.readings import Readings
from audit.result import Control, Measurement
from concepts.concept import Concept
from concepts.keyspace import FOLDS, PERMUTATIONS, SMALLEST_SET, Separability, separability

TITLE = "Separability of the concept in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    sizes = {kind: len(keys) for kind, keys in subjects.readings["base"].keys.items()}
    if min(sizes.values()) < SMALLEST_SET:
        return Measurement(
            metric="key_space_separability",
            title=TITLE,
            not_measured=f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
            f"{SMALLEST_SET} of each are needed",
        )
    found = {role: _separability(readings, subjects.seed) for role, readings in subjects.readings.items()}
    base, unlearned = found["base"], found["unlearned"]
    layer = base.best
    return Measurement(
        metric="key_space_separability",
        title=TITLE,
        value=float(unlearned.auc[layer]),
        base=float(base.auc[layer]),
        retained=float(found["retained"].auc[layer]) if "retained" in found else None,
        unit=f"AUC at layer {layer}, where the base separates best",
        direction="knowledge",
        n=sum(sizes.values()),
        p_value=float(unlearned.p_values[layer]),
        control=Control(name="labels permuted", value=float(unlearned.null[layer])),
        layers=_layers(found),
        details={
            "null": "labels permuted within folds; the highest AUC over all layers each time",
            "layer": layer,
            "p_value_base": base.p_value,
            "best_layer_unlearned": unlearned.best,
            "folds": FOLDS,
            "permutations": PERMUTATIONS,
            "questions": sizes,
            "seed": subjects.seed,
        },
    )


def _separability(readings: Readings, seed: int) -> Separability:
    return separability(readings.keys["target"], readings.keys["unrelated"], seed=seed)


def _layers(found: Mapping[str, Separability]) -> dict[str, list[float | None]]:
    return {role: [float(value) for value in result.auc] for role, result in found.items()}
