"""Do the same neurons still carry the concept? Overlap of the neurons that tell its questions from unrelated ones.

In each layer the 1 % of neurons whose activations differ most between the concept's questions and unrelated ones
(``concepts.keyspace.carriers``). The base's set on one half of the questions is compared with the unlearned model's on
the other half, and with the base's own there: what two halves of one model share is the most that can be expected.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Control, Measured, not_measured
from concepts.keyspace import carriers, jaccard

TITLE = "Neurons that carry the {topic}"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SHARE = 0.01
SPLITS = 20
SMALLEST_SET = 8
"""Each half must hold at least four questions: below, which neurons differ is mostly chance."""


def measure(evidence: Evidence) -> Measured:
    """The overlap in the layer where the base's halves agree best; the interval is the spread over random halves."""
    base = evidence.readings["base"]
    sizes = {kind: len(keys) for kind, keys in base.keys.items()}
    if min(sizes.values()) < SMALLEST_SET:
        reason = f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
        return not_measured(f"{reason}{SMALLEST_SET} of each are needed")
    found = {role: overlaps(base, model, evidence.seed) for role, model in evidence.readings.items()}
    layer = int(found["base"].mean(axis=0).argmax())
    at = {role: overlap[:, layer] for role, overlap in found.items()}
    return Measured(
        value=float(at["unlearned"].mean()),
        interval=_spread(at["unlearned"]),
        base=float(at["base"].mean()),
        base_interval=_spread(at["base"]),
        retained=float(at["retained"].mean()) if "retained" in at else None,
        unit=f"Jaccard overlap with the base's neurons on other questions at layer {layer}, where the base agrees best",
        direction="knowledge",
        n=sum(sizes.values()),
        control=Control(name="two random sets of as many neurons", value=SHARE / (2 - SHARE)),
        layers={role: overlap.mean(axis=0).tolist() for role, overlap in found.items()},
        details={
            "layer": layer,
            "share_of_neurons": SHARE,
            "interval": f"95 % of {SPLITS} random halves",
            "questions": sizes,
            "seed": evidence.seed,
        },
    )


def overlaps(one: Readings, other: Readings, seed: int) -> np.ndarray:
    """Overlap of ``one``'s carriers on half of the questions with ``other``'s on the rest ``[SPLITS, n_layers]``."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SPLITS):
        target, unrelated = (_halves(len(one.keys[kind]), rng) for kind in ("target", "unrelated"))
        first, second = (
            carriers(model.keys["target"][target[at]], model.keys["unrelated"][unrelated[at]], SHARE)
            for at, model in enumerate((one, other))
        )
        found.append(jaccard(first, second))
    return np.stack(found)


def _halves(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(n)
    return order[: n // 2], order[n // 2 :]


def _spread(found: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
