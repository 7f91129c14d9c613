"""The concept's questions and unrelated ones in a plane of FFN key space, the same for every model.

The layer is the one where the base separates the two best. The plane (``concepts.keyspace.plane``) is fitted to half of
the base's questions; drawn and measured are the other halves, so that what is apart is not apart by fitting. The value
is the distance of the two means along the first axis in units of the pooled standard deviation: 0 where the model
treats both alike.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Evidence
from audit.result import Cell, Control, Interval, Measured, not_measured
from audit.statistics import two_sample_interval
from concepts.keyspace import Plane, held_out_auc, plane

TITLE = "Clusters of the {topic} in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 8
KINDS = ("target", "unrelated")


def measure(evidence: Evidence) -> Measured:
    """Distance of the clusters in every model, and each held-out question's place."""
    keys = {role: readings.keys for role, readings in evidence.readings.items()}
    sizes = {kind: len(keys["base"][kind]) for kind in KINDS}
    if min(sizes.values()) < SMALLEST_SET:
        reason = f"{sizes['target']} questions about the concept and {sizes['unrelated']} unrelated ones; "
        return not_measured(f"{reason}{SMALLEST_SET} of each are needed")
    layer = int(held_out_auc(*(keys["base"][kind] for kind in KINDS), seed=evidence.seed).argmax())
    rng = np.random.default_rng(evidence.seed)
    order = {kind: rng.permutation(sizes[kind]) for kind in KINDS}
    fit, held = ({kind: order[kind][start::2] for kind in KINDS} for start in (0, 1))
    fitted = [keys["base"][kind][fit[kind], layer] for kind in KINDS]
    drawn = plane(*fitted)
    places = {
        role: {kind: drawn.project(found[kind][held[kind], layer]) for kind in KINDS} for role, found in keys.items()
    }
    distances = {role: distance(found["target"][:, 0], found["unrelated"][:, 0]) for role, found in places.items()}
    return Measured(
        value=float(distances["unlearned"]),
        interval=_interval(places["unlearned"], evidence.seed),
        base=float(distances["base"]),
        base_interval=_interval(places["base"], evidence.seed),
        retained=float(distances["retained"]) if "retained" in distances else None,
        unit=f"pooled standard deviations between the means at layer {layer}",
        direction="knowledge",
        n=sum(len(held[kind]) for kind in KINDS),
        control=_control(fitted, places_of_base=[keys["base"][kind][held[kind], layer] for kind in KINDS], rng=rng),
        items=[
            row
            for role, found in places.items()
            for kind in KINDS
            for row in _rows(role, evidence.topic.title if kind == "target" else "unrelated", found[kind])
        ],
        details={
            "layer": layer,
            "chosen_by": f"Separability of the {evidence.topic.noun} in key space, in the base",
            "fitted_on": {kind: len(fit[kind]) for kind in KINDS},
            "seed": evidence.seed,
        },
    )


def distance(inside: np.ndarray, outside: np.ndarray, axis: int = -1) -> np.ndarray:
    """Difference of the means over the pooled standard deviation along ``axis``; 0 where nothing differs."""
    apart = inside.mean(axis=axis) - outside.mean(axis=axis)
    spread = np.sqrt((inside.var(axis=axis) + outside.var(axis=axis)) / 2)
    found: np.ndarray = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)
    return found


def _interval(places: dict[str, np.ndarray], seed: int) -> Interval | None:
    return two_sample_interval(places["target"][:, 0], places["unrelated"][:, 0], distance, seed=seed)


def _control(fitted: list[np.ndarray], places_of_base: list[np.ndarray], rng: np.random.Generator) -> Control:
    """The base's own distance along an axis fitted to shuffled labels."""
    shuffled = rng.permutation(np.concatenate(fitted))
    axis: Plane = plane(shuffled[: len(fitted[0])], shuffled[len(fitted[0]) :])
    inside, outside = (axis.project(keys)[:, 0] for keys in places_of_base)
    return Control(name="an axis fitted to shuffled labels, in the base", value=float(distance(inside, outside)))


def _rows(role: str, kind: str, places: np.ndarray) -> list[dict[str, Cell]]:
    return [{"model": role, "set": kind, "x": float(x), "y": float(y)} for x, y in places]
