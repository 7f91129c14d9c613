"""The concept's questions and unrelated ones in a plane of FFN key space, the same plane for every model.

The layer is the one where the base separates the two best. The plane (``concepts.keyspace.plane``) is fitted to half of
the base's questions; the other half is projected and measured, so that the fit does not create the separation. The
value is the distance of the two means along the first axis in units of the pooled standard deviation: 0 where the model
treats both sets alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audit.metrics.contract import Evidence
from audit.result import Cell, Control, Interval, Measured, not_measured
from audit.statistics import two_sample_interval
from concepts.keyspace import Plane, held_out_auc, plane

TITLE = "Clusters of the {topic} in key space"
NEEDS = frozenset({"tokenizer", "model", "questions"})
SMALLEST_SET = 8
KINDS = ("target", "unrelated")

Points = Float[np.ndarray, "_ 2"]
"""Coordinates of questions in the plane."""


def measure(evidence: Evidence) -> Measured:
    """Distance of the clusters in every model, and the coordinates of each held-out question."""
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
    axes = plane(*fitted)
    points = {
        role: {kind: axes.project(by_kind[kind][held[kind], layer]) for kind in KINDS} for role, by_kind in keys.items()
    }
    distances = {role: distance(sets["target"][:, 0], sets["unrelated"][:, 0]) for role, sets in points.items()}
    return Measured(
        value=float(distances["unlearned"]),
        interval=_interval(points["unlearned"], evidence.seed),
        base=float(distances["base"]),
        base_interval=_interval(points["base"], evidence.seed),
        retained=float(distances["retained"]) if "retained" in distances else None,
        unit=f"pooled standard deviations between the means at layer {layer}",
        direction="knowledge",
        n=sum(len(held[kind]) for kind in KINDS),
        control=_control(fitted, held_out=[keys["base"][kind][held[kind], layer] for kind in KINDS], rng=rng),
        items=[
            row
            for role, sets in points.items()
            for kind in KINDS
            for row in _rows(role, evidence.topic.title if kind == "target" else "unrelated", sets[kind])
        ],
        details={
            "layer": layer,
            "chosen_by": f"Separability of the {evidence.topic.noun} in key space, in the base",
            "fitted_on": {kind: len(fit[kind]) for kind in KINDS},
            "seed": evidence.seed,
        },
    )


def distance(
    target: Float[np.ndarray, "*resamples n_target"],
    unrelated: Float[np.ndarray, "*resamples n_unrelated"],
    axis: int = -1,
) -> np.ndarray:
    """Difference of the means over the pooled standard deviation along ``axis``; 0 where that deviation is 0."""
    difference = target.mean(axis=axis) - unrelated.mean(axis=axis)
    spread = np.sqrt((target.var(axis=axis) + unrelated.var(axis=axis)) / 2)
    standardised: np.ndarray = np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)
    return standardised


def _interval(points: Mapping[str, Points], seed: int) -> Interval | None:
    return two_sample_interval(points["target"][:, 0], points["unrelated"][:, 0], distance, seed=seed)


def _control(
    fitted: Sequence[Float[np.ndarray, "_ d_mlp"]],
    held_out: Sequence[Float[np.ndarray, "_ d_mlp"]],
    rng: np.random.Generator,
) -> Control:
    """The base's own distance along an axis fitted to shuffled labels."""
    shuffled = rng.permutation(np.concatenate(fitted))
    axes: Plane = plane(shuffled[: len(fitted[0])], shuffled[len(fitted[0]) :])
    target, unrelated = (axes.project(keys)[:, 0] for keys in held_out)
    return Control(name="an axis fitted to shuffled labels, in the base", value=float(distance(target, unrelated)))


def _rows(role: str, label: str, points: Points) -> list[dict[str, Cell]]:
    return [{"model": role, "set": label, "x": float(x), "y": float(y)} for x, y in points]
