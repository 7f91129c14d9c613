"""The class of the edit in words: how the answers were changed (no verdict rests on it).

The thresholds are stated, not calibrated: they separate tiny models that were changed in known ways, with few models in
each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

EditName = Literal["no change", "noise", "bypass", "edit", "absence", "mixed"]

WRITTEN: Final = 0.5
"""Share of the base's lens from which on an answer counts as written in the states; at most half of it, as not."""
RESTORED: Final = 0.5
"""Knowledge recovery score from which on a class of weights alone counts as the place of the edit."""
FAR: Final = 8.0
"""Distance of the states from the base's, in distances between two subjects, from which on they are noise."""
NEAR: Final = 1.5
"""The same, up to which they are states as the base has them for another subject."""


@dataclass(frozen=True)
class EditNumbers:
    """What the class is read from, means over the facts; ``None`` for what could not be measured.

    Attributes:
        changed: whether the answers' logits differ from the base's beyond rounding.
        written: largest share of the base's lens that the states reach (``PatchReadings.written_share``).
        moved: distance of the states from the base's, in distances between two subjects, after the block where it is
            largest; the last block, which makes the answer, does not count.
        restored: class of weights -> knowledge recovery score of all its layers.
    """

    changed: bool
    written: float | None
    moved: float
    restored: Mapping[str, float | None]


@dataclass(frozen=True)
class EditClass:
    """The class, the number that decided, and a sentence."""

    name: EditName
    value: float
    sentence: str


def edit_class(numbers: EditNumbers) -> EditClass:
    """The first class that applies, in this order: no change, noise, bypass, edit, absence; else mixed."""
    written, moved = numbers.written, numbers.moved
    if not numbers.changed:
        return EditClass("no change", moved, "The answers are computed as in the base; a protection lies outside them.")
    if moved >= FAR:
        return EditClass(
            "noise",
            moved,
            f"The states were pushed {moved:.1f} times as far from the base's as another subject's are: noise covers "
            "the facts.",
        )
    if written is not None and written >= WRITTEN:
        return EditClass(
            "bypass",
            written,
            f"The facts are still written in the states ({written:.2f} of the base's lens) and are overridden "
            "afterwards: a bypass.",
        )
    place, best = _most_restored(numbers.restored)
    if best >= RESTORED:
        return EditClass(
            "edit", best, f"The base's {place} alone bring {best:.2f} of the change back: these weights were edited."
        )
    if moved <= NEAR and (written is None or written < WRITTEN / 2):
        return EditClass(
            "absence",
            moved,
            "The states are such as the base has for another subject, the facts are not written in them, and no class "
            "of weights brings them back. So does a model look that never knew; it is no proof that this one forgot.",
        )
    return EditClass("mixed", moved, "The change is of no single class: several places were changed together.")


def _most_restored(restored: Mapping[str, float | None]) -> tuple[str, float]:
    return max(((name, value) for name, value in restored.items() if value is not None), key=lambda each: each[1])
