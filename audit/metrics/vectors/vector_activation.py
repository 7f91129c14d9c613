"""Mean absolute coefficient of the concept's value vectors at the last token of a question, under each prompt.

The FFN adds each value vector to the residual stream times its coefficient, an entry of the key vector. The absolute
coefficient shows how strongly a prompt activates the vector, independent of the text that the model then generates.
Control vectors of the same layers and nearest norm show how strongly any vector is activated. What makes it wrong: an
edit of the value vectors leaves their coefficients unchanged; ``vector_cosine`` shows such an edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audit.metrics.contract import Evidence
from audit.result import Cell, Control, Measured, not_measured
from audit.statistics import bootstrap_interval, paired_difference_interval
from audit.vectors.trace import TracedVector, TracedVectors
from concepts.jailbreaks import PLAIN

TITLE = "Concept vectors: activation under jailbreak prompts"
NEEDS = frozenset({"tokenizer", "model", "questions", "vectors"})
ATTACK = "jailbreaks"

Keys = Float[np.ndarray, "_ n_layers d_mlp"]
"""Key vectors at the last token of each question."""


def measure(evidence: Evidence) -> Measured:
    traced, seed = evidence.vectors, evidence.seed
    assert traced is not None  # the runner calls no metric whose NEEDS are missing
    prompts = keys_by_prompt(evidence)
    tried = [name for name in prompts if name != PLAIN]
    if not tried:
        return not_measured("no question about the concept can be asked under a jailbreak prompt")
    means = {role: over_prompts(prompts, role, tried, traced.vectors) for role in evidence.readings}
    control = over_prompts(prompts, "unlearned", tried, traced.controls)
    return Measured(
        value=float(means["unlearned"].mean()),
        interval=bootstrap_interval(means["unlearned"], seed=seed),
        base=float(means["base"].mean()),
        base_interval=bootstrap_interval(means["base"], seed=seed),
        retained=float(means["retained"].mean()) if "retained" in means else None,
        unit="size of the coefficient, mean over vectors, questions and prompts",
        direction="knowledge",
        n=len(traced.vectors),
        control=Control(
            name=f"{len(traced.controls)} other vectors of the same layers and nearest norm",
            value=float(control.mean()),
            interval=bootstrap_interval(control, seed=seed),
            base=float(over_prompts(prompts, "base", tried, traced.controls).mean()),
        ),
        items=[_row(name, prompts[name], traced, seed) for name in prompts],
        details={"prompts": tried, "interval over": "vectors", "seed": seed},
    )


def keys_by_prompt(evidence: Evidence) -> dict[str, dict[str, Keys]]:
    """Prompt -> role -> key vectors of the questions about the topic, for prompts that apply to some question."""
    by_prompt = {}
    for condition in evidence.conditions(ATTACK):
        keys = {role: readings.keys["target"] for role, readings in evidence.under(condition).readings.items()}
        if len(keys["base"]):
            by_prompt[condition.dose] = keys
    return by_prompt


def activations(keys: Keys, vectors: Sequence[TracedVector]) -> Float[np.ndarray, " n_vectors"]:
    """Mean absolute coefficient of each vector over the questions."""
    layers, neurons = [vector.place.layer for vector in vectors], [vector.place.neuron for vector in vectors]
    means: np.ndarray = np.abs(keys[:, layers, neurons]).mean(axis=0, dtype=np.float64)
    return means


def over_prompts(
    prompts: Mapping[str, Mapping[str, Keys]], role: str, names: Sequence[str], vectors: Sequence[TracedVector]
) -> Float[np.ndarray, " n_vectors"]:
    """``activations`` in one model, averaged over several prompts."""
    means: np.ndarray = np.mean([activations(prompts[name][role], vectors) for name in names], axis=0)
    return means


def _row(name: str, keys: Mapping[str, Keys], traced: TracedVectors, seed: int) -> dict[str, Cell]:
    """One prompt: every model, and the change from base to unlearned with its interval over vectors."""
    means = {role: activations(rows, traced.vectors) for role, rows in keys.items()}
    low, high = paired_difference_interval(means["unlearned"], means["base"], seed=seed) or (None, None)
    row: dict[str, Cell] = {"prompt": name, "questions": len(keys["base"])}
    row |= {role: float(values.mean()) for role, values in means.items()}
    row |= {"change": float((means["unlearned"] - means["base"]).mean()), "low": low, "high": high}
    controls = {role: float(activations(keys[role], traced.controls).mean()) for role in ("base", "unlearned")}
    return row | {f"control_{role}": value for role, value in controls.items()}
