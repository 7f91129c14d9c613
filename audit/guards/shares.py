"""The share of queries that something is true of, among those where it can be told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from audit.result import Cell, Control, Interval
from audit.statistics import CONFIDENCE, share_interval


@dataclass(frozen=True)
class Share:
    """A share with Wilson's interval; both are ``None`` if ``n`` is 0.

    Attributes:
        n: queries of which it is known.
    """

    value: float | None
    interval: Interval | None
    n: int

    @classmethod
    def of(cls, marked: Float[np.ndarray, " n_queries"], confidence: float = CONFIDENCE) -> Share:
        """The share of the queries marked 1; those marked NaN are excluded."""
        known = marked[~np.isnan(marked)]
        if not known.size:
            return cls(None, None, 0)
        return cls(float(known.mean()), share_interval(known, confidence), len(known))

    def row(self, attack: str, name: str) -> dict[str, Cell]:
        """The share under ``attack``, in the column ``name``."""
        low, high = self.interval or (None, None)
        return {"asked": attack, name: self.value, "low": low, "high": high}

    def control(self, name: str) -> Control | None:
        return Control(name=name, value=self.value, interval=self.interval) if self.n else None
