"""Every FFN neuron before and after, as squared norms of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audit.weights.norms import cosine
from concepts.neuron import Neuron


@dataclass(frozen=True)
class NeuronTable:
    """Squared norms of each neuron's rows, ``[n_layers, d_mlp]`` float64 each: base, unlearned and their difference.

    Attributes:
        value: of the value vector, by ``"base"``, ``"unlearned"``, ``"delta"``.
        key: of ``W_in`` and ``W_gate`` together.
        touched_value, touched_key: whether any bit of the rows differs.
    """

    value: dict[str, np.ndarray]
    key: dict[str, np.ndarray]
    touched_value: np.ndarray
    touched_key: np.ndarray

    def relative_change(self, kind: str = "value") -> np.ndarray:
        """``||d|| / ||base||`` of each neuron; 0 where nothing changed, NaN where a changed row was zero before."""
        sums = self.value if kind == "value" else self.key
        touched = self.touched_value if kind == "value" else self.touched_key
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.sqrt(sums["delta"] / sums["base"])
        return np.where(touched, np.where(np.isfinite(change), change, np.nan), 0.0)

    def cosine(self, neuron: Neuron) -> float | None:
        """Cosine of one value vector before and after."""
        sums = (self.value[which][neuron.layer, neuron.neuron] for which in ("base", "unlearned", "delta"))
        return cosine(*map(float, sums))
