"""The class of the edit in words: how the answers were changed (no verdict rests on it).

The thresholds are stated, not calibrated: they separate a few tiny models that were changed in known ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

EditName = Literal["no change", "noise", "bypass", "edit", "absence", "mixed"]

FAR: Final = 2.0
"""Distance of a state from the base's, in norms of the base's state, that no state of the same norm exceeds."""
READ: Final = 0.4
"""Share of the base's likelihood from which on the blocks above count as unchanged."""
WRITTEN: Final = 0.5
"""Share of the base's lens from which on an answer counts as written in the states; below half of it, as not."""
RESTORED: Final = 0.5
"""Knowledge recovery score from which on a class of weights alone counts as the place of the edit."""
CARRIED: Final = 0.9
"""Share of the base's likelihood from which on a state counts as carrying the answer as the base's does."""
NEAR: Final = 1.5
"""Distance of the states from the base's, in distances between two subjects, up to which they are like another
subject's."""
DAMAGED: Final = 1.25
"""The same for the fall of log-probability that the states cause in the base."""


@dataclass(frozen=True)
class EditNumbers:
    """What the class is read from, means over the facts; ``None`` for what cannot be measured.

    Attributes:
        changed: whether the answers' logits differ from the base's beyond rounding.
        shift: distance of the states from the base's in norms of the base's states, after the block where it is
            largest; the last block, which makes the answer, does not count.
        readout: share of the base's likelihood that the model gets from the base's states
            (``PatchReadings.readout_share``).
        written, carried, moved: see ``PatchReadings.written_share``, ``carried_share`` and ``moved_apart``.
        damage: see ``PatchReadings.damage``.
        restored: class of weights -> knowledge recovery score of all its layers.
    """

    changed: bool
    shift: float
    readout: float | None
    written: float | None
    carried: float | None
    moved: float | None
    damage: float | None
    restored: Mapping[str, float | None]


@dataclass(frozen=True)
class EditClass:
    """The class, the number that decided, and a sentence."""

    name: EditName
    value: float
    sentence: str


def edit_class(numbers: EditNumbers) -> EditClass:
    """The first class that applies: no change, noise, bypass, edit, absence; else mixed."""
    if not numbers.changed:
        return EditClass(
            "no change", numbers.shift, "The answers are computed as in the base; a protection lies outside them."
        )
    if numbers.shift > FAR and numbers.readout is not None and numbers.readout >= READ:
        return EditClass(
            "noise",
            numbers.shift,
            f"The states were pushed {numbers.shift:.1f} times their own size away from the base's, while the blocks "
            "above still answer from the base's states: noise covers the facts.",
        )
    return _bypass(numbers) or _absence(numbers) or _mixed(numbers)


def _bypass(numbers: EditNumbers) -> EditClass | None:
    """An answer that is in the states and overridden afterwards, unless the base's weights of one class undo it."""
    written, carried = numbers.written, numbers.carried
    if written is not None and written >= WRITTEN:
        return EditClass(
            "bypass",
            written,
            f"The facts are still written in the states ({written:.2f} of the base's lens) and are overridden "
            "afterwards: a bypass.",
        )
    place, best = max(
        ((name, value) for name, value in numbers.restored.items() if value is not None),
        key=lambda each: each[1],
        default=("", 0.0),
    )
    if best >= RESTORED:
        return EditClass(
            "edit", best, f"The base's {place} alone bring {best:.2f} of the change back: these weights were edited."
        )
    if carried is not None and carried >= CARRIED:
        return EditClass(
            "bypass",
            carried,
            f"The base reads the facts from the states ({carried:.2f} of its likelihood); they are overridden "
            "afterwards: a bypass.",
        )
    return None


def _absence(numbers: EditNumbers) -> EditClass | None:
    """States that are no more than those of another subject."""
    moved, damage, written = numbers.moved, numbers.damage, numbers.written
    if moved is None or moved > NEAR or damage is None or damage > DAMAGED:
        return None
    if written is not None and written >= WRITTEN / 2:
        return None
    return EditClass(
        "absence",
        moved,
        "The states are such as the base has for another subject, and no class of weights brings the facts back. So "
        "does a model look that never knew; it is no proof that this one forgot.",
    )


def _mixed(numbers: EditNumbers) -> EditClass:
    beyond = numbers.damage is not None and numbers.damage > DAMAGED
    worse = f", and the states say less than another subject's ({numbers.damage:.1f} times the fall)" if beyond else ""
    return EditClass("mixed", numbers.shift, f"Several places were changed together{worse}.")
