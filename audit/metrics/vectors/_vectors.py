"""Shared code of the concept-vector metrics: one score per vector, averaged, with matched vectors as the control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audit.metrics.contract import Evidence
from audit.result import Cell, Control, Direction, Measured, not_measured
from audit.statistics import bootstrap_interval
from audit.vectors.trace import TracedVector, TracedVectors

Score = Callable[[TracedVector], float | None]
"""One vector before and after -> its score; ``None`` where it is undefined."""

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
    """The mean of ``score`` over the concept's vectors, with the mean over their matched vectors as the control.

    Args:
        score: vectors for which it is undefined are excluded and counted.
        unchanged: the score of an unchanged vector, which is the base's score against itself.
    """
    traced = evidence.vectors
    assert traced is not None  # the runner calls no metric whose NEEDS are missing
    scores = [score(vector) for vector in traced.vectors]
    defined = np.array([value for value in scores if value is not None])
    if not defined.size:
        return not_measured("it is undefined for every concept vector")
    return Measured(
        value=float(defined.mean()),
        interval=bootstrap_interval(defined, seed=evidence.seed),
        base=unchanged,
        unit=unit,
        direction=direction,
        n=int(defined.size),
        control=_control(traced, score, evidence.seed),
        items=[
            _row(traced, index, vector, value)
            for index, (vector, value) in enumerate(zip(traced.vectors, scores, strict=True))
        ],
        details={"undefined_for": len(scores) - defined.size} | (details or {}),
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


def cosine(before: Float[np.ndarray, " d_model"], after: Float[np.ndarray, " d_model"]) -> float | None:
    """Cosine of two vectors in float64; ``None`` where one is zero, exactly 1 for equal vectors."""
    if np.array_equal(before, after):
        return 1.0 if np.any(before) else None
    one, other = before.astype(np.float64), after.astype(np.float64)
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else None


def mean_or_none(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
