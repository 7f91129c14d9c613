"""A condition: how a model is treated before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit import result


@dataclass(frozen=True)
class Condition:
    """As it is, or one dose of an attack.

    Attributes:
        attack: file name of the attack in ``audit/attacks/``; ``None`` for a model that is read as it is.
        dose: which of the attack's conditions, e.g. the name of a prompt or a number of training steps.
        seed: of what the attack draws at random.
    """

    attack: str | None = None
    dose: str = ""
    seed: int = 0

    def __str__(self) -> str:
        return result.AS_IS if self.attack is None else f"{self.attack}: {self.dose}"


AS_IS: Final = Condition()
