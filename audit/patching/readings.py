"""What was read by patching one topic's questions, and the shares that are computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from audit.patching.edit_class import EditNumbers
from audit.patching.items import PatchItem
from audit.patching.lens import LensReadings
from audit.patching.restoration import Restored
from audit.patching.runs import Scores
from audit.unlearning.direction import Along

DROP: Final = 0.05
"""A layer encodes a fact if the answer's mean log-probability falls by more (nats) when another state is put in there
(the threshold of the unlearning depth score); the same number is used for probabilities."""
LENS: Final = 0.2
"""Probability in the base's lens from which on a state already holds the answer, so that putting it in is trivial."""
DECIDING: Final = 0.8
"""Share of the drop in the last layer from which on a layer decides the answer: the blocks above hardly ask again."""
SMALL: Final = 1e-6
"""Keeps a division defined where another subject's state costs nothing; such layers are not counted."""
SAME: Final = 1e-6
"""Mean squared difference of logits below which two models give the same answers, up to rounding."""
WEIGHTS: Final = ("embedding", "value vectors", "readout")
"""Classes that stand for weights. What is put in of the others is computed from a question, and from where the base has
written the answer it carries the answer itself: a model that never knew says it too."""
LOSS: Final = 0.05
"""Nats per answer token below which nothing was lost that could come back."""


@dataclass(frozen=True)
class PatchReadings:
    """Everything that was read; roles are ``base``, ``unlearned`` and ``retained``.

    Attributes:
        items: facts first, then controls; the last axis of all scores but those of ``restored``.
        plain: role -> the model as it is.
        restored: role (not the base) -> what each class of the base brings back, for the facts alone.
        into_base: role -> the base with that model's stream after each block ``[n_layers, n]``; ``"other"`` for its own
            stream after the other question.
        from_base: role -> that model with the base's stream.
        from_other: role -> that model with the base's stream after the other question.
        lens: role -> its states through its own norm and head.
        base_lens: role (not the base) -> its states through the base's.
        moved: role (not the base) -> distance of its states from the base's, divided by the distance of the base's
            states after the other question ``[n_layers, n]``.
        shift: the same, divided by the norm of the base's states.
        passes: number of forward passes of one question, all models together.
        along: matrix -> its update from base to unlearned relative to the knowledge direction, or the reason why it was
            not read.
    """

    items: tuple[PatchItem, ...]
    plain: Mapping[str, Scores]
    restored: Mapping[str, tuple[Restored, ...]]
    into_base: Mapping[str, Scores]
    from_base: Mapping[str, Scores]
    from_other: Mapping[str, Scores]
    lens: Mapping[str, LensReadings]
    base_lens: Mapping[str, LensReadings]
    moved: Mapping[str, Float[np.ndarray, "n_layers n"]]
    shift: Mapping[str, Float[np.ndarray, "n_layers n"]]
    passes: int
    along: Mapping[str, Along] | str

    @cached_property
    def facts(self) -> Bool[np.ndarray, " n"]:
        """Which items are facts."""
        return ~self.controls

    @cached_property
    def controls(self) -> Bool[np.ndarray, " n"]:
        """Which items are controls."""
        return np.array([item.control for item in self.items])

    def drop(self, source: str) -> Float[np.ndarray, "n_layers n"]:
        """Fall of the base's log-probability with the stream of ``source`` (see ``into_base``), in nats per token."""
        fall: np.ndarray = self.plain["base"].logprob - self.into_base[source].logprob
        return fall

    def depth(self, role: str, reference: str = "other") -> Float[np.ndarray, " n"]:
        """The drop by ``role``'s stream as a share of the drop by ``reference``'s, for each item.

        Layers are weighted with the drop by ``reference``. With ``reference="retained"`` this is the unlearning depth
        score (arXiv 2605.24614): 0 intact, 1 as in a model that never knew; NaN where no layer encodes the fact.
        """
        return weighted_share(self.drop(role), self.drop(reference))

    def damage(self, role: str, which: Bool[np.ndarray, " n"]) -> float | None:
        """The same over all layers and items together, without a limit at 1."""
        full = self.drop("other")[:, which]
        counted = full > DROP
        return float(self.drop(role)[:, which][counted].sum() / full[counted].sum()) if counted.any() else None

    def state_share(self, role: str) -> Float[np.ndarray, " n"]:
        """How much of the answer's likelihood the base gets from ``role``'s stream: 1 all of it, 0 no more than from
        its own stream after another question."""
        floor = self.into_base["other"].likelihood
        return weighted_share(self.into_base[role].likelihood - floor, self.plain["base"].likelihood - floor)

    def written_share(self, role: str) -> Float[np.ndarray, " n"]:
        """The largest share of the base's lens that ``role``'s states reach in the same layer, through the base's head.

        Only layers where the base's lens shows the answer count, and not the last, which makes it; NaN where there is
        none, as in small models that write an answer in their last block.
        """
        shown = ~self.early
        shown[-1] = False
        base = np.where(shown, self.lens["base"].probability, 1.0)
        share = np.where(shown, self.base_lens[role].probability / base, 0.0).max(axis=0)
        values: np.ndarray = np.where(shown.any(axis=0), np.minimum(share, 1.0), np.nan)
        return values

    def carried_share(self, role: str) -> Float[np.ndarray, " n"]:
        """``state_share`` in the best layer of those that decide the answer (``deciding``)."""
        floor = self.into_base["other"].likelihood
        full = np.maximum(self.plain["base"].likelihood - floor, SMALL)
        share = np.where(self.deciding, (self.into_base[role].likelihood - floor) / full, 0.0)
        values: np.ndarray = np.where(self.deciding.any(axis=0), np.clip(share.max(axis=0), 0.0, 1.0), np.nan)
        return values

    def moved_apart(self, role: str) -> Float[np.ndarray, " n"]:
        """Mean of ``moved`` over the layers that decide the answer; NaN if there is none."""
        count = self.deciding.sum(axis=0)
        total = np.where(self.deciding, self.moved[role], 0.0).sum(axis=0)
        values: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return values

    @property
    def deciding(self) -> Bool[np.ndarray, "n_layers n"]:
        """Layers in which another subject's state costs nearly all that it costs in the end; not the last layer."""
        drop = self.drop("other")
        deciding: np.ndarray = (drop > DROP) & (drop >= DECIDING * drop[-1])
        deciding[-1] = False
        return deciding

    def readout_share(self, role: str) -> Float[np.ndarray, " n"]:
        """The same for ``role`` with the base's stream: 1 as much as the base, 0 no more than with the base's stream
        after another question. Only layers in which the base's lens does not show the answer yet are counted: later
        ones hand it in."""
        floor = self.from_other[role].likelihood
        reached, full = self.from_base[role].likelihood - floor, self.plain["base"].likelihood - floor
        return weighted_share(reached, full, self.early)

    @property
    def early(self) -> Bool[np.ndarray, "n_layers n"]:
        """Layers after which the base's lens does not show the answer yet."""
        early: np.ndarray = self.lens["base"].probability < LENS
        return early

    def recovery(self, role: str, restored: Restored) -> Recovery:
        """What one class brings back, over all facts."""
        facts = (self.plain[each].select(self.facts) for each in (role, "base"))
        return Recovery(restored.scores, *facts)

    def classes(self, role: str) -> tuple[Restored, ...]:
        """``restored`` with the base's readout, which reads the states after the last block in ``into_base``."""
        last = self.into_base[role].select(self.facts).layer(-1)
        return (*self.restored[role], Restored("readout", None, False, last))

    def edit_numbers(self, role: str) -> EditNumbers:
        """What the class of the edit is read from."""
        last = len(self.moved[role]) - 1
        weights = [each for each in self.classes(role) if each.component in WEIGHTS and not each.floor]
        every = next((each for each in weights if each.layers == (0, last)), None)
        return EditNumbers(
            changed=float(self.plain[role].select(self.facts).mse.mean()) > SAME,
            shift=float(self.shift[role][: max(last, 1), self.facts].mean(axis=1).max()),
            readout=self._mean(self.readout_share(role)),
            written=self._mean(self.written_share(role)),
            carried=self._mean(self.carried_share(role)),
            moved=self._mean(self.moved_apart(role)),
            damage=self.damage(role, self.facts),
            restored={_place(each): self.recovery(role, each).krs for each in weights if each is not every},
            all_restored=None if every is None else self.recovery(role, every).krs,
        )

    def _mean(self, values: Float[np.ndarray, " n"]) -> float | None:
        """Mean over the facts for which it is defined, if these are at least half."""
        defined = values[self.facts & np.isfinite(values)]
        return float(defined.mean()) if 2 * len(defined) >= self.facts.sum() else None


@dataclass(frozen=True)
class Recovery:
    """One patch of a model compared with the model as it is and with the base, over the same facts.

    Every share is 1 if the base's answers are back and 0 if nothing changed; ``None`` if nothing was lost.
    """

    patched: Scores
    plain: Scores
    base: Scores

    @property
    def krs(self) -> float | None:
        """Knowledge recovery score: 1 - MSE(base, patched) / MSE(base, plain) of the logits."""
        lost = float(self.plain.mse.mean())
        return 1 - float(self.patched.mse.mean()) / lost if lost > SAME else None

    @property
    def kl(self) -> float | None:
        """The same with the divergence from the base's distribution."""
        lost = float(self.plain.kl.mean())
        return 1 - float(self.patched.kl.mean()) / lost if float(self.plain.mse.mean()) > SAME else None

    @property
    def logprob(self) -> float | None:
        """Gain of the answers' log-probability as a share of its loss."""
        lost = float((self.base.logprob - self.plain.logprob).mean())
        return float((self.patched.logprob - self.plain.logprob).mean()) / lost if lost > LOSS else None


def _place(restored: Restored) -> str:
    """``"value vectors of layers 5 to 9"``."""
    if restored.layers is None:
        return restored.component
    first, last = restored.layers
    return f"{restored.component} of " + (f"layer {first}" if first == last else f"layers {first} to {last}")


def weighted_share(
    part: Float[np.ndarray, "n_layers n"],
    full: Float[np.ndarray, "n_layers n"],
    counted: Bool[np.ndarray, "n_layers n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """For each item the mean of ``part / full``, limited to 0 .. 1, over layers with weights ``full``.

    Args:
        counted: layers to use; of these, layers with ``full`` of at most ``DROP`` are left out. NaN if none is left.
    """
    used = full > DROP if counted is None else (full > DROP) & counted
    weights = np.where(used, full, 0.0)
    total = weights.sum(axis=0)
    share = np.clip(part / np.where(used, full, 1.0), 0.0, 1.0)
    values: np.ndarray = np.where(total > 0, (weights * share).sum(axis=0) / np.where(total > 0, total, 1.0), np.nan)
    return values
