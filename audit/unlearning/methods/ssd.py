"""Selective synaptic dampening: parameters that matter most for what is forgotten are scaled down (arXiv 2308.07707).

``F = E[(d loss / d theta)^2]`` over examples. Where ``F_forget > alpha F_retain``, ``theta`` is multiplied by
``min(dampening F_retain / F_forget, 1)`` (Foster et al. 2024). Nothing is trained.

The paper compares with the data that the model was trained on, of which little is to be forgotten. That of a language
model is not at hand; what is to be retained stands for it. The published code squares the gradient of a batch, which
depends on the batch's size; here each example has a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, answer_loss, pack
from audit.progress import SILENT, Progress
from audit.unlearning.parameters import block_matrices
from audit.unlearning.training import MethodSettings, Record, prepare, require_positive, trainable

TITLE = "Selective synaptic dampening"


@dataclass(frozen=True)
class SSDSettings(MethodSettings):
    """Settings of selective synaptic dampening.

    Attributes:
        alpha: how many times more important a parameter must be for what is forgotten than for what is retained. With
            little to retain few parameters matter for it: SmolLM2-135M is broken at 30, the largest of the paper is 50.
        dampening: factor of the ratio by which it is then scaled (``lambda`` in the paper).
    """

    alpha: float = 100.0
    dampening: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "alpha", "dampening")


SETTINGS = SSDSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: SSDSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Dampen the matrices of the blocks of ``model``, in place.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: see ``packing.answer_logprobs``.
    """
    answers, held = prepare(model, forget, retain, needs_retain=True)
    matrices = block_matrices(model)
    total = len(answers) + len(held)
    with trainable(model.model, every=False):
        for parameter in matrices.values():
            parameter.requires_grad_(True)
        own = importance(model, list(matrices.values()), answers, progress, total)
        others = importance(model, list(matrices.values()), held, progress, total, done=len(answers))
    dampened = {}
    with torch.no_grad():
        for (name, parameter), forgotten, kept in zip(matrices.items(), own, others, strict=True):
            factor = factors(forgotten, kept, settings.alpha, settings.dampening)
            parameter.mul_(factor.to(parameter.dtype))
            dampened[name] = (factor < 1).float().mean().item()
    return Record(
        method="ssd",
        settings=settings.as_json(),
        examples={"forget": len(forget), "retain": len(retain)},
        changed={"share_dampened": dampened},
    )


def factors(forgotten: Tensor, kept: Tensor, alpha: float, dampening: float) -> Tensor:
    """What each parameter is multiplied by, from its importance for what is forgotten and for what is kept; at most 1.

    1 where it is no more than ``alpha`` times as important for what is forgotten.
    """
    scaled = (dampening * kept / forgotten.clamp_min(torch.finfo(forgotten.dtype).tiny)).clamp(max=1.0)
    return torch.where(forgotten > alpha * kept, scaled, torch.ones_like(scaled))


def importance(
    model: RunningModel,
    parameters: Sequence[nn.Parameter],
    examples: Sequence[Tokens],
    progress: Progress = SILENT,
    total: int = 0,
    done: int = 0,
) -> list[Tensor]:
    """Mean over examples of the squared gradient of the answer's mean loss, float32, for each parameter.

    Args:
        total, done: examples of the whole work and before these, for the progress.
    """
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    for number, tokens in enumerate(examples, done + 1):
        loss = answer_loss(model, pack([(0, tokens)]))
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        for total_square, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:  # an expert to which no token was routed
                total_square.addcmul_(gradient.float(), gradient.float(), value=1 / len(examples))
        progress.step("Measuring the importance of parameters", number, total or len(examples))
    return sums
