"""Oracle matching: least squares onto the outputs of a model that never saw what is to be forgotten (arXiv 2410.23232).

``L = E_t |log p_t - log p_t,reference|^2 / d_vocab`` over the answers' tokens, of what is to be forgotten and of what
is retained in the same batch. This is the second step of datamodel matching (Georgiev et al. 2024) with true outputs in
place of predicted ones, the bound of what that method can reach: right behaviour by construction, in weights that stay
next to the model's own.

Outputs are log-probabilities and not logits, to which any constant may be added at each token without meaning anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, Tokens, answer_logprobs, pack
from audit.progress import SILENT, Progress
from audit.unlearning.reference import ReferenceSettings, open_reference, read_reference
from audit.unlearning.training import Record, batches_of_both, minimise, prepare, trainable, unused

TITLE = "Least squares onto a reference's outputs"


@dataclass(frozen=True)
class OracleMatchingSettings(ReferenceSettings):
    """Settings of oracle matching; both sets have the same loss, and ``retain_weight`` is that of the second."""

    steps: int = 120
    learning_rate: float = 1e-4
    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = unused("kl")
    lora_rank: int = unused(0)


SETTINGS = OracleMatchingSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: OracleMatchingSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, towards the outputs of the reference.

    Raises:
        AuditError: see ``training.prepare`` and ``reference.open_reference``.
        ModelError: training diverged.
    """
    opened = open_reference(settings, model)
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    kept = held if settings.retain_weight else []
    tokens = [*answers, *kept]
    wanted = read_reference(opened, model, tokens, _outputs, settings, progress)
    generator = torch.Generator().manual_seed(settings.seed)
    batches = batches_of_both(len(answers), len(kept), settings, generator)
    with trainable(model.model, every=True):
        step, text = partial(_match, model, tokens, wanted, settings.retain_weight), "Training all weights"
        trajectory = minimise(model.model.parameters(), batches, step, settings, progress, f"{text} ({TITLE.lower()})")
    return Record(
        method="oracle_matching",
        settings=settings.as_json(),
        examples={"forget": len(forget), "retain": len(kept)},
        trajectory=trajectory,
        changed={"parameters": "all"},
    )


def _outputs(model: RunningModel, row: Pack) -> tuple[Float[Tensor, "n d_vocab"], ...]:
    """The log-probabilities at the answer's tokens of each example in ``row``."""
    return row.by_example(answer_logprobs(model, row))


def _match(
    model: RunningModel,
    tokens: Sequence[Tokens],
    wanted: Sequence[Tensor],
    retain_weight: float,
    batches: tuple[list[int], list[int]],
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one of ``batches``, and its parts."""
    forget, retain = batches
    row = pack([(index, tokens[index]) for index in (*forget, *retain)])
    difference = answer_logprobs(model, row) - torch.cat([wanted[index] for index in row.examples])
    distances = difference.square().mean(dim=1)
    own = row.owner < len(forget)
    matched = distances[own].mean()
    if not retain:
        return matched, {"matched": matched.item()}
    held = distances[~own].mean()
    return matched + retain_weight * held, {"matched": matched.item(), "retain": held.item()}
