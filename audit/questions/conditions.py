"""A condition: how a model is treated before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit import result


@dataclass(frozen=True)
class Condition:
    """The unmodified model, or one dose of an attack.

    Attributes:
        attack: file name of the attack in ``audit/attacks/``; ``None`` for the unmodified model.
        dose: names the condition among those of the attack, e.g. a prompt or a number of training steps.
        seed: seed of the attack's random draws.
        arm, steps: of an attack that trains: what it trains on, and for how many steps.
        fold: for an attack that is given half of the facts and read on the other: which half is read. Both folds are
            one condition to a metric.
    """

    attack: str | None = None
    dose: str = ""
    seed: int = 0
    fold: int | None = None
    arm: str = ""
    steps: int | None = None

    def __str__(self) -> str:
        return result.AS_IS if self.attack is None else f"{self.attack}: {self.dose}"


AS_IS: Final = Condition()
