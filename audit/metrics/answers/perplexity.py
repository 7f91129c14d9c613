"""Perplexity on neutral text: does the model still work at all?

``exp`` of the mean over paragraphs of the mean negative log-probability of their tokens, without the first token of
each. It distinguishes a model that is silent about a concept because it is broken from one that works. Undefined where
the loss is so large that ``exp`` overflows.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.answers._answers import mean_of
from audit.metrics.answers.neutral_loss import paragraph_losses
from audit.metrics.contract import Evidence
from audit.result import Interval, Measured, not_measured
from audit.thresholds import LARGEST_LOSS

TITLE = "Perplexity on neutral text"
NEEDS = frozenset({"tokenizer", "model"})


def measure(evidence: Evidence) -> Measured:
    losses = {role: paragraph_losses(readings) for role, readings in evidence.readings.items()}
    means = {role: mean_of(model, evidence.seed) for role, model in losses.items()}
    values = {role: mean.value for role, mean in means.items()}
    if values["unlearned"] is None:
        return not_measured("no neutral text was read")
    if max(value for value in values.values() if value is not None) > LARGEST_LOSS:
        return not_measured(f"the loss on neutral text exceeds {LARGEST_LOSS:g} nats per token: exp overflows")
    perplexities = {role: None if value is None else float(np.exp(value)) for role, value in values.items()}
    return Measured(
        value=perplexities["unlearned"],
        interval=_exp(means["unlearned"].interval),
        base=perplexities["base"],
        base_interval=_exp(means["base"].interval),
        retained=perplexities.get("retained"),
        unit="perplexity (lower is a healthier model)",
        direction="none",
        n=len(losses["unlearned"]),
        items=[
            {"paragraph": index, **{role: model[index] for role, model in losses.items()}}
            for index in range(len(losses["unlearned"]))
        ],
        details={
            "items": "mean nats per token",
            "tokens": sum(len(item.answer_ids) for item in evidence.readings["base"].items if item.kind == "text"),
            "ratio_to_base": None
            if values["base"] is None
            else float(np.exp(min(values["unlearned"] - values["base"], LARGEST_LOSS))),
            "seed": evidence.seed,
        },
    )


def _exp(interval: Interval | None) -> Interval | None:
    return None if interval is None else (float(np.exp(interval[0])), float(np.exp(interval[1])))
