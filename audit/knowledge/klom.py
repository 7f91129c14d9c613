"""KLoM: how far the margins of many unlearned models are from those of many retrained ones (arXiv 2410.23232).

For each item the margins of both sides are counted in ``BINS`` bins of equal width over their common range, and KLoM is
``KL(unlearned || retrained)`` of the two histograms. Histograms of few models differ although nothing else does, so the
value that exchanged models would give is subtracted: with normal margins it is 0.9 nats for 50 models on each side and
0.15 for 200.

What makes it wrong: models of one side that share a random draw which those of the other side do not share (one base
for all, say), for then models cannot be exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from audit.errors import AuditError
from audit.knowledge.margins import Margins
from audit.statistics import ROUNDING, Interval, drawn_p_value

BINS: Final = 20
LARGEST: Final = 100.0
"""Absolute margin, in nats, at which margins are cut."""
FLOOR: Final = 1e-5
"""Least probability of a bin of the retrained models: KLoM is at most ``-log`` of it, 11.5 nats."""
FEWEST: Final = 50
"""Models on each side; with 20 of them the value under exchange is 3 nats."""
DRAWS: Final = 999
QUANTILES: Final = (0.5, 0.9, 0.95, 1.0)
"""Those of the items that are reported beside the mean."""
BAND: Final = (0.05, 0.95)
"""The part of the draws that lies in the null band."""


@dataclass(frozen=True)
class KLoM:
    """KLoM of each item, and what models exchanged at random between the two sides give; all in nats.

    Attributes:
        values: not corrected.
        null: of each draw; one draw exchanges models, with all their items.
    """

    items: tuple[str, ...]
    values: Float[np.ndarray, " n_items"]
    null: Float[np.ndarray, "n_draws n_items"]

    @cached_property
    def excess(self) -> Float[np.ndarray, " n_items"]:
        """``values`` without the mean under exchange; around 0 where the sides do not differ."""
        corrected: np.ndarray = self.values - self.null.mean(axis=0)
        return corrected

    @property
    def mean(self) -> float:
        """Mean ``excess`` over the items."""
        return float(self.excess.mean())

    @property
    def quantiles(self) -> dict[float, float]:
        """Quantile (``QUANTILES``) -> the ``excess`` there."""
        return dict(zip(QUANTILES, np.quantile(self.excess, QUANTILES).tolist(), strict=True))

    @property
    def band(self) -> Interval:
        """The middle 90 % of the mean ``excess`` under exchange."""
        low, high = np.quantile(self._null_means - self._null_means.mean(), BAND)
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """One-sided: share of the exchanges whose mean reaches the observed one."""
        return drawn_p_value(self._null_means >= self.values.mean() - ROUNDING)

    @cached_property
    def p_values(self) -> Float[np.ndarray, " n_items"]:
        """The same for each item, not corrected for their number."""
        return np.array([drawn_p_value(reached) for reached in (self.null >= self.values - ROUNDING).T])

    @cached_property
    def _null_means(self) -> Float[np.ndarray, " n_draws"]:
        means: np.ndarray = self.null.mean(axis=1)
        return means


def klom(unlearned: Margins, retrained: Margins, *, seed: int, draws: int = DRAWS) -> KLoM:
    """KLoM of each item with its permutation null.

    Raises:
        AuditError: the sides have different items or numbers of models, or fewer than ``FEWEST``; or the margins of an
            item are not numbers, or are the same in all models of a side.
    """
    _check(unlearned, retrained)
    n = len(unlearned.values)
    labels = np.arange(2 * n) < n
    exchanged = np.random.default_rng(seed).permuted(np.tile(labels, (draws, 1)), axis=1)
    found = divergences(np.concatenate([unlearned.values, retrained.values]), np.vstack([labels, exchanged]))
    return KLoM(unlearned.items, found[0], found[1:])


def divergences(
    values: Float[np.ndarray, "n_models n_items"], is_unlearned: Bool[np.ndarray, "n_draws n_models"]
) -> Float[np.ndarray, "n_draws n_items"]:
    """KLoM of each item, in nats, for several divisions of the same models into two sides of any size.

    Args:
        values: the margins of all models.
    """
    from scipy.special import rel_entr  # slow to import

    sides = [labels / labels.sum(axis=1, keepdims=True) for labels in (is_unlearned, ~is_unlearned)]
    found = np.empty((len(is_unlearned), values.shape[1]))
    for item, column in enumerate(np.clip(values, -LARGEST, LARGEST).T):
        in_bin = np.eye(BINS)[_bins(column)]
        unlearned, retrained = (side @ in_bin for side in sides)
        found[:, item] = rel_entr(unlearned, np.maximum(retrained, FLOOR)).sum(axis=1)
    return found


def _bins(values: Float[np.ndarray, " n_models"]) -> Int[np.ndarray, " n_models"]:
    """The bin of each value, of ``BINS`` of equal width over their range; the largest is in the last bin."""
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    bins: np.ndarray = np.searchsorted(edges[1:-1], values, side="right")
    return bins


def _check(unlearned: Margins, retrained: Margins) -> None:
    if unlearned.items != retrained.items:
        raise AuditError("the margins of the two sides are not of the same items in the same order.")
    counts = [len(side.values) for side in (unlearned, retrained)]
    if counts[0] != counts[1]:
        raise AuditError(f"KLoM compares as many unlearned models as retrained ones, not {counts[0]} and {counts[1]}.")
    if counts[0] < FEWEST:
        raise AuditError(
            f"KLoM needs {FEWEST} models on each side, not {counts[0]}: of fewer the histograms are noise.",
            hint="Make more models with other seeds.",
        )
    for name, side in (("unlearned", unlearned), ("retrained", retrained)):
        if np.isnan(side.values).any():
            raise AuditError(f"margins of the {name} models are not numbers.")
        constant = np.flatnonzero(np.ptp(np.clip(side.values, -LARGEST, LARGEST), axis=0) == 0)
        if len(constant):
            raise AuditError(
                f"all {name} models have the same margin on {side.items[constant[0]]!r}.",
                hint="Make each with another seed, or leave the item out.",
            )
