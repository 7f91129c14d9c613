"""Overlap, before and after, of the neurons that distinguish the concept's questions from unrelated ones.

These are, in each layer, the 1 % of neurons whose activations differ most between the two sets of questions
(``concepts.keyspace.carriers``). The base's set on one half of the questions is compared with the unlearned model's set
on the other half. ``base`` compares the base with itself in the same way: two halves do not agree fully even in one
model, so this is the highest value to expect. The layer is the one where the base agrees best with itself. The value is
a mean over random halves; how far it varies over them is in the details. That spread is no confidence interval: other
questions were not drawn.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Control, Measured, not_measured
from concepts.keyspace import carriers, jaccard

TITLE = "Neurons that carry the {topic}"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SHARE = 0.01
SPLITS = 20
SMALLEST_SET = 8
"""Four questions in each half; with fewer, which neurons differ most is mostly chance."""


def measure(evidence: Evidence) -> Measured:
    base = evidence.readings["base"]
    sizes = {kind: len(keys) for kind, keys in base.keys.items()}
    if min(sizes.values()) < SMALLEST_SET:
        reason = f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
        return not_measured(f"{reason}{SMALLEST_SET} of each are needed")
    by_layer = {role: overlaps(base, model, evidence.seed) for role, model in evidence.readings.items()}
    layer = int(by_layer["base"].mean(axis=0).argmax())
    overlap = {role: values[:, layer] for role, values in by_layer.items()}
    return Measured(
        value=float(overlap["unlearned"].mean()),
        base=float(overlap["base"].mean()),
        retained=float(overlap["retained"].mean()) if "retained" in overlap else None,
        unit=f"Jaccard overlap with the base's neurons on other questions at layer {layer}, where the base agrees best",
        direction="knowledge",
        n=sum(sizes.values()),
        control=Control(name="two random sets of as many neurons", value=SHARE / (2 - SHARE)),
        layers={role: values.mean(axis=0).tolist() for role, values in by_layer.items()},
        details={
            "layer": layer,
            "share_of_neurons": SHARE,
            f"central 95 % over {SPLITS} random halves": {role: _spread(values) for role, values in overlap.items()},
            "questions": sizes,
            "seed": evidence.seed,
        },
    )


def overlaps(one: Readings, other: Readings, seed: int) -> Float[np.ndarray, "n_splits n_layers"]:
    """Jaccard overlap of ``one``'s carriers on half of the questions with ``other``'s on the rest, per random split."""
    rng = np.random.default_rng(seed)
    splits = []
    for _ in range(SPLITS):
        target, unrelated = (_halves(len(one.keys[kind]), rng) for kind in ("target", "unrelated"))
        first, second = (
            carriers(model.keys["target"][target[half]], model.keys["unrelated"][unrelated[half]], SHARE)
            for half, model in enumerate((one, other))
        )
        splits.append(jaccard(first, second))
    return np.stack(splits)


def _halves(n: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " n_first"], Int[np.ndarray, " n_second"]]:
    order = rng.permutation(n)
    return order[: n // 2], order[n // 2 :]


def _spread(overlap: Float[np.ndarray, " n_splits"]) -> list[float]:
    """The central 95 % over random halves."""
    central: list[float] = np.quantile(overlap, [0.025, 0.975]).tolist()
    return central
