"""Negative Preference Optimization with a retain term (Zhang et al. 2024, arXiv 2404.05868).

``L = -(2/beta) E log sigma(-beta log(p(y|x) / p_ref(y|x))) + retain_weight * retain``, with the log-probability
summed over the answer's tokens. Its gradient is gradient ascent's, each example weighted by
``W = 2 p^beta / (p^beta + p_ref^beta)``: 1 at the start, falling to 0 as the answer becomes unlikely, so that it
stops itself. The reference is the model before its first step; its numbers are read once, so one model is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from audit.progress import SILENT, Progress
from audit.running import RunningModel
from audit.unlearning.packing import Example, Pack, Tokens, answer_logprobs, pack
from audit.unlearning.training import Record, Settings, minimise, prepare, shuffled, trainable

TITLE = "Negative preference optimization with a retain term"

Forward = Callable[[Pack], Tensor]
"""A row of examples -> log-probabilities ``[m, d_vocab]`` at its scored places."""


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings = Settings(),
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the answers of ``forget``.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: training diverged.
    """
    tokens = prepare(model.tokenizer, forget, retain, settings)
    with trainable(model.model, every=True):
        objective = Objective.start(partial(answer_logprobs, model), *tokens, settings, progress)
        trajectory = minimise(
            model.model.parameters(), objective.step, settings, progress, "Training all weights (NPO)"
        )
    return Record(
        method="npo",
        settings=settings.as_json(),
        examples={"forget": len(forget), "retain": len(retain)},
        trajectory=trajectory,
        changed={"parameters": "all"},
    )


def preference_loss(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, ""]:
    """NPO's loss from the answers' log-probabilities in nats, now and at the start."""
    return -(2 / beta) * torch.nn.functional.logsigmoid(-beta * (logprobs - reference)).mean()


def gradient_weight(
    logprobs: Float[Tensor, " examples"], reference: Float[Tensor, " examples"], beta: float
) -> Float[Tensor, " examples"]:
    """W, the share of gradient ascent's step that each example still takes: 1 at the start, 2 at most."""
    return 2 * torch.sigmoid(beta * (logprobs - reference))


@dataclass
class Objective:
    """NPO and retain term over the next batch; the only state is how far the shuffled order has come.

    Examples are numbered forget first, then retain. ``reference_sums`` ``[n_forget]`` and ``reference_logprobs``
    (one ``[answer tokens, d_vocab]`` for each retain example) are the model's own before training.
    """

    forward: Forward
    tokens: list[Tokens]
    n_forget: int
    settings: Settings
    reference_sums: Tensor
    reference_logprobs: list[Tensor]

    @classmethod
    def start(
        cls, forward: Forward, forget: list[Tokens], retain: list[Tokens], settings: Settings, progress: Progress
    ) -> Objective:
        """Read the reference from the model as it is now."""
        sums: list[Tensor] = []
        distributions: list[Tensor] = []
        everything = [*enumerate(forget), *enumerate(retain, len(forget))]
        size = settings.forget_batch + settings.retain_batch
        with torch.no_grad():
            for start in range(0, len(everything), size):
                row = pack(everything[start : start + size])
                logprobs = forward(row)
                sums.append(row.answer_sums(logprobs))
                distributions += [
                    logprobs[row.owner == place].clone()
                    for place, index in enumerate(row.examples)
                    if index >= len(forget)
                ]
                progress.step("Reading the model before training", min(start + size, len(everything)), len(everything))
        return cls(forward, [*forget, *retain], len(forget), settings, torch.cat(sums)[: len(forget)], distributions)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        self._forget = shuffled(self.n_forget, self.settings.forget_batch, generator)
        n_retain = len(self.tokens) - self.n_forget
        self._retain = (
            shuffled(n_retain, self.settings.retain_batch, generator) if self.settings.retain_weight else None
        )

    def step(self) -> tuple[Tensor, dict[str, float]]:
        """Loss of the next batch, and what became of it: W, the answers' log-ratio in nats, the retain term."""
        forget = next(self._forget)
        retain = [self.n_forget + index for index in next(self._retain)] if self._retain else []
        row = pack([(index, self.tokens[index]) for index in (*forget, *retain)])
        logprobs = self.forward(row)
        sums, reference = row.answer_sums(logprobs)[: len(forget)], self.reference_sums[forget]
        loss = preference_loss(sums, reference, self.settings.beta)
        readings = {
            "W": gradient_weight(sums, reference, self.settings.beta).mean().item(),
            "log_ratio": (sums - reference).mean().item(),
        }
        if retain:
            held = self._retain_term(row, logprobs, len(forget))
            loss = loss + self.settings.retain_weight * held
            readings["retain"] = held.item()
        return loss, readings

    def _retain_term(self, row: Pack, logprobs: Tensor, n_forget: int) -> Float[Tensor, ""]:
        """Mean over the retained answers' tokens, in nats: KL(reference || now), or the answers' cross-entropy."""
        chosen = row.owner >= n_forget
        if self.settings.retain_loss == "ce":
            return -logprobs[chosen].gather(1, row.targets[chosen][:, None]).mean()
        reference = torch.cat([self.reference_logprobs[index - self.n_forget] for index in row.examples[n_forget:]])
        return torch.nn.functional.kl_div(logprobs[chosen], reference, log_target=True, reduction="batchmean")
