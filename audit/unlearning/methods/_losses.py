"""Forget losses that other methods use by name, each with the settings of its own method."""

from __future__ import annotations

from functools import partial
from typing import Literal

from audit.unlearning.methods import gradient_ascent, npo, simnpo
from audit.unlearning.objective import ForgetLoss

LossName = Literal["npo", "simnpo", "gradient_ascent"]


def loss_of(method: LossName) -> ForgetLoss:
    """The forget loss of ``method``."""
    losses: dict[str, ForgetLoss] = {
        "npo": partial(npo.forget_loss, beta=npo.SETTINGS.beta),
        "simnpo": partial(simnpo.forget_loss, beta=simnpo.SETTINGS.beta, delta=simnpo.SETTINGS.delta),
        "gradient_ascent": gradient_ascent.forget_loss,
    }
    return losses[method]
