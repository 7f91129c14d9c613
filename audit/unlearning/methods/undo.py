"""Unlearn, noise, distil (UNDO, arXiv 2506.06278): a damaged copy of the unlearned model learns its behaviour again.

First NPO. Then every matrix of the blocks is moved towards noise of its own size,
``theta <- (1 - noise) theta + noise * std(theta) * N(0, 1)``, and the result is trained to the unlearned model's
distributions on what is retained (Lee et al. 2025). What only the weights knew, and the unlearned model did not say, is
not taught again: with enough noise a candidate for *removed*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, answer_logprobs, pack
from audit.progress import SILENT, Progress
from audit.unlearning.methods import npo
from audit.unlearning.parameters import block_matrices
from audit.unlearning.training import (
    Record,
    continued,
    minimise,
    prepare,
    require_positive,
    rows_of,
    shuffled,
    trainable,
    unused,
)

TITLE = "Unlearn, noise, distil"


@dataclass(frozen=True)
class UNDOSettings(npo.NPOSettings):
    """Settings of UNDO; those of NPO are of its first part.

    Attributes:
        noise: share of the weights that becomes noise.
        distil_steps, distil_rate: updates and learning rate of the distillation.
    """

    noise: float = 0.2
    distil_steps: int = 120
    distil_rate: float = 2e-4
    lora_rank: int = unused(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "distil_steps", "distil_rate", "retain_weight")
        if not 0 < self.noise <= 1:
            raise AuditError(f"noise must be above 0 and at most 1, but is {self.noise}.")


SETTINGS = UNDOSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: UNDOSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    first = npo.unlearn(model, forget, retain, settings, progress)
    _, held = prepare(model, forget, retain, needs_retain=True)
    whole = [Tokens(ids[:1], ids[1:]) for ids in (each.prompt + each.answer for each in held)]  # prompts are taught too
    taught = _distributions(model, whole, settings.retain_batch)
    generator = torch.Generator().manual_seed(settings.seed)
    add_noise(block_matrices(model), settings.noise, generator)
    batches = shuffled(len(whole), settings.retain_batch, generator)
    with trainable(model.model, every=True):
        step, text = partial(_distil, model, whole, taught), "Distilling into the noised model"
        second = replace(settings, steps=settings.distil_steps, learning_rate=settings.distil_rate)
        rows = minimise(model.model.parameters(), batches, step, second, progress, text)
    return replace(first, method="undo", settings=settings.as_json(), trajectory=continued(first.trajectory, rows))


@torch.no_grad()
def add_noise(parameters: Mapping[str, nn.Parameter], share: float, generator: torch.Generator) -> None:
    """Move each matrix towards noise of its own standard deviation, so far that ``share`` 1 leaves noise alone."""
    for parameter in parameters.values():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter) * parameter.std()
        parameter.lerp_(noise, share)


@torch.no_grad()
def _distributions(model: RunningModel, examples: Sequence[Tokens], size: int) -> list[Float[Tensor, "n d_vocab"]]:
    """The model's distribution at every token of each example but the first, in half precision."""
    found: list[Tensor] = []
    for row in rows_of(examples, size):
        found += row.by_example(answer_logprobs(model, row).half())
    return found


def _distil(
    model: RunningModel, examples: Sequence[Tokens], taught: Sequence[Tensor], batch: Sequence[int]
) -> tuple[Tensor, dict[str, float]]:
    """KL(unlearned || now) of a batch, mean over its tokens."""
    row = pack([(index, examples[index]) for index in batch])
    wanted = torch.cat([taught[index] for index in batch]).float()
    logprobs = answer_logprobs(model, row)
    return torch.nn.functional.kl_div(logprobs, wanted, log_target=True, reduction="batchmean"), {}
