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
"""Knowledge recovery score from which on the weights of one place (a window of layers) count as edited."""
ALL_RESTORED: Final = 0.9
"""The same for the value vectors of all layers: they are a third of a model, and bring 0.7 back where nothing was
edited and the base alone was taught the facts."""
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
        restored: place (embedding, readout, value vectors of a window of layers) -> knowledge recovery score of the
            base's weights there.
        all_restored: of the value vectors of all layers.
    """

    changed: bool
    shift: float
    readout: float | None
    written: float | None
    carried: float | None
    moved: float | None
    damage: float | None
    restored: Mapping[str, float | None]
    all_restored: float | None


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
    edited = _edited(numbers)
    if edited is not None:
        return edited
    if carried is not None and carried >= CARRIED:
        return EditClass(
            "bypass",
            carried,
            f"The base reads the facts from the states ({carried:.2f} of its likelihood); they are overridden "
            "afterwards: a bypass.",
        )
    return None


def _edited(numbers: EditNumbers) -> EditClass | None:
    """Weights of one place, or of one class, that bring most of the change back alone."""
    values = {name: value for name, value in numbers.restored.items() if value is not None and value >= RESTORED}
    if not values and numbers.all_restored is not None and numbers.all_restored >= ALL_RESTORED:
        values = {"value vectors of all layers": numbers.all_restored}
    if not values:
        return None
    place = max(values, key=lambda name: values[name])
    back = f"The base's weights in one place ({place}) bring {values[place]:.2f} of the change back"
    return EditClass("edit", values[place], f"{back}: an edit of them.")


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
        "The states are such as the base has for another subject, and no place alone brings the facts back. So "
        "does a model look that never knew; it is no proof that this one forgot.",
    )


def _mixed(numbers: EditNumbers) -> EditClass:
    beyond = numbers.damage is not None and numbers.damage > DAMAGED
    worse = f", and the states say less than another subject's ({numbers.damage:.1f} times the fall)" if beyond else ""
    return EditClass("mixed", numbers.shift, f"Several places were changed together{worse}.")
