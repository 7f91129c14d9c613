"""What the concept-vector metrics share: one number a vector, the same for its matched controls, one Measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from audit.metrics.contract import Evidence
from audit.result import Cell, Control, Direction, Measured
from audit.statistics import bootstrap_interval
from audit.vectors.trace import TracedVector, TracedVectors

Score = Callable[[TracedVector], float | None]

NEEDS = frozenset({"tokenizer", "vectors"})


def vector_measurement(
    evidence: Evidence,
    score: Score,
    *,
    unit: str,
    direction: Direction,
    unchanged: float | None,
    details: dict[str, Any] | None = None,
) -> Measured:
    """The mean of ``score`` over the concept's vectors, beside the mean over their controls.

    Args:
        score: one vector's number, ``None`` where it is undefined; such vectors are left out and counted.
        unchanged: what a vector that did not change scores: the base against itself.
    """
    traced = evidence.vectors
    assert traced is not None  # the runner calls no metric whose NEEDS are missing
    scores = [score(vector) for vector in traced.vectors]
    known = np.array([value for value in scores if value is not None])
    if not known.size:
        return Measured(not_measured="it is undefined for every vector found")
    return Measured(
        value=float(known.mean()),
        interval=bootstrap_interval(known, seed=evidence.seed),
        base=unchanged,
        unit=unit,
        direction=direction,
        n=int(known.size),
        control=_control(traced, score, evidence.seed),
        items=[
            _row(traced, index, vector, value)
            for index, (vector, value) in enumerate(zip(traced.vectors, scores, strict=True))
        ],
        details={"undefined_for": len(scores) - known.size} | (details or {}),
    )


def _control(traced: TracedVectors, score: Score, seed: int) -> Control:
    values = np.array([value for value in map(score, traced.controls) if value is not None])
    name = f"{len(traced.controls)} other vectors of the same layers and nearest norm"
    if not values.size:
        return Control(name=name)
    return Control(name=name, value=float(values.mean()), interval=bootstrap_interval(values, seed=seed))


def _row(traced: TracedVectors, index: int, vector: TracedVector, value: float | None) -> dict[str, Cell]:
    return {
        "layer": vector.place.layer,
        "neuron": vector.place.neuron,
        "sign": "+" if vector.place.sign > 0 else "-",
        "value": value,
        "writes": ", ".join(token.strip() for token in traced.writes[index]),
    }


def cosine(before: np.ndarray, after: np.ndarray) -> float | None:
    """Cosine of two vectors ``[d_model]`` in float64, ``None`` where one is zero; exactly 1 for equal vectors."""
    if np.array_equal(before, after):
        return 1.0 if np.any(before) else None
    one, other = before.astype(np.float64), after.astype(np.float64)
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else None


def mean_or_none(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
