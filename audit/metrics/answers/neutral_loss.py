"""Mean loss on neutral text, in nats per token: does the model still work at all?

Unlike perplexity it cannot overflow, so a broken model has a number too.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.answers._answers import mean_of
from audit.metrics.contract import Evidence
from audit.questions.items import NEUTRAL_TEXT
from audit.questions.readings import Readings
from audit.result import Measured, not_measured

TITLE = "Loss on neutral text"
NEEDS = frozenset({"tokenizer", "model"})


def measure(evidence: Evidence) -> Measured:
    losses = {role: paragraph_losses(readings) for role, readings in evidence.readings.items()}
    means = {role: mean_of(model, evidence.seed) for role, model in losses.items()}
    unlearned, base = means["unlearned"], means["base"]
    if unlearned.value is None:
        return not_measured("no neutral text was read")
    return Measured(
        value=unlearned.value,
        interval=unlearned.interval,
        base=base.value,
        base_interval=base.interval,
        retained=means["retained"].value if "retained" in means else None,
        unit="nats per token (lower is a healthier model)",
        direction="none",
        n=len(losses["unlearned"]),
    )


def paragraph_losses(readings: Readings) -> list[float]:
    """Mean loss of each paragraph's tokens but the first."""
    return [float(-np.mean(readings.answer_logprobs[index])) for index in readings.of(NEUTRAL_TEXT)]
