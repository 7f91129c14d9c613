"""Gaussian noise on the matrices of the blocks, in standard deviations of each matrix.

Hiding that rests on exact weights gives way before the knowledge does. Every model gets the same draw, so that a
difference between models is not one of draws. Embedding, head, norms and biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from audit.attacks import AttackedModel, AttackInput
from audit.attacks._matrices import edited

TITLE = "weight noise"
COST = "passes"
INPUT = "noise"
LEVEL = "quick"
RECOVERS = True
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

QUICK: Final = (0.05,)
FULL: Final = (0.05, 0.1, 0.2)
"""Measured on SmolLM2-135M and 42 facts about Italy: 74 % are said without noise, 76, 31 and 0 % with these doses; at
0.3 nothing can be read either."""


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each dose, of one draw."""
    seed = given.settings.seed
    doses = FULL if given.level == "full" else QUICK
    yield from edited(given, "noise", {dose_name(dose): partial(noised, dose, seed) for dose in doses}, seed)


def dose_name(dose: float) -> str:
    return f"{dose:g} standard deviations"


def noised(dose: float, seed: int, matrix: Tensor, number: int) -> Tensor:
    """``matrix`` with noise of ``dose`` times its standard deviation, drawn on the CPU for ``(seed, number)``."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))
    drawn = torch.randn(matrix.shape, generator=generator).to(matrix.device)
    values = matrix.float()
    return values + dose * values.std() * drawn
