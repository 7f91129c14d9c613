"""What a concept metric reads: two or three models' readings of one concept, gathered before any metric runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from audit.pair import ModelPair
from audit.readings import Readings


@dataclass(frozen=True)
class TracedVector:
    """One value vector before and after unlearning.

    Attributes:
        layer, neuron, sign: where it is and which side of its projection carries the concept.
        before, after: the row ``W_out[neuron]``, float32 ``[d_model]``.
        top_before, top_after: ids of the largest entries of ``sign * W_U v``, each model's own head, best first.
        ranks_before, ranks_after: rank (0 is best) of each concept token in ``sign * W_U v``, ``[n_tokens]``.
    """

    layer: int
    neuron: int
    sign: int
    before: np.ndarray
    after: np.ndarray
    top_before: np.ndarray
    top_after: np.ndarray
    ranks_before: np.ndarray
    ranks_after: np.ndarray


@dataclass(frozen=True)
class TracedVectors:
    """The concept's vectors, found in the base or named by it, and control vectors of the same layers and nearest norm.

    ``writes`` are the first of each vector's top tokens in the base, in text; ``tokens`` the concept's token ids;
    ``words`` the same in text; ``controls_per_vector`` controls follow each other in the order of ``vectors``.
    ``dtype`` is the files' number format, whose rounding is the noise floor.
    """

    writes: tuple[tuple[str, ...], ...]
    vectors: tuple[TracedVector, ...]
    controls: tuple[TracedVector, ...]
    controls_per_vector: int
    tokens: np.ndarray
    words: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Subjects:
    """Everything measured of base, unlearned and (where given) retained for one concept.

    ``missing`` says why an input of ``NEEDS`` is absent: ``{"model": "no config.json beside the weights", ...}``.
    """

    pair: ModelPair
    readings: Mapping[str, Readings] = field(default_factory=dict)
    vectors: TracedVectors | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
