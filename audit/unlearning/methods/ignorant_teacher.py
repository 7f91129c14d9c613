"""Ignorant teacher: what is to be forgotten is learnt from a model that never saw it (blindspot, arXiv 2210.08196).

``L = E KL(p_teacher || p) + activation_weight * E (a_l / a_l,teacher - 1)^2 + retain_weight * retain`` (after Tarun et
al. 2022) at the answers' tokens, where ``a_l`` is the mean square of the residual stream after block ``l``, and the
second mean is over tokens and layers. So the internals move with the outputs. The paper's teacher is a new network that
saw a little of the retained data, which as a language model could teach nothing; here it is the model before it learnt
the facts, or one that was trained without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.reference import ReferenceSettings, open_reference, read_reference
from audit.unlearning.streams import Streams
from audit.unlearning.training import Record, prepare

TITLE = "Distillation from an ignorant teacher"


@dataclass(frozen=True)
class IgnorantTeacherSettings(ReferenceSettings):
    """Settings of distillation from an ignorant teacher, the ``reference``.

    Attributes:
        activation_weight: of the term for the residual stream; 0 for outputs alone.
    """

    steps: int = 60
    learning_rate: float = 1e-4
    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"
    activation_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation_weight < 0:
            raise AuditError(f"activation_weight must not be negative, but is {self.activation_weight}.")


SETTINGS = IgnorantTeacherSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: IgnorantTeacherSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, towards what the teacher says and how strongly it is active.

    Raises:
        AuditError: the teacher has other layers; or see ``reference.open_reference`` and ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    opened = open_reference(settings, model)
    n_layers, own_layers = opened.require_architecture().n_layers, model.architecture.n_layers
    if n_layers != own_layers:
        raise AuditError(
            f"the reference has {n_layers} layers, the model {own_layers}.",
            where=settings.reference,
            hint="Give a version of the model.",
        )
    answers, _ = prepare(model, forget, retain, settings.retain_weight > 0)
    targets = read_reference(opened, model, answers, targets_of, settings, progress)
    distillation = _Distillation(model, targets, settings.activation_weight)
    extras = Extras(forward=distillation.streams.forward)
    return train_all("ignorant_teacher", distillation.loss, model, forget, retain, settings, progress, extras)


@dataclass(frozen=True)
class Targets:
    """What the teacher does at the ``n`` tokens of an answer.

    Attributes:
        activations: mean square of the residual stream after each block.
    """

    logprobs: Float[Tensor, "n d_vocab"]
    activations: Float[Tensor, "n n_layers"]


def targets_of(model: RunningModel, row: Pack) -> list[Targets]:
    """The targets for each example in ``row``."""
    streams = Streams(model, range(model.architecture.n_layers))
    logprobs = streams.forward(row)
    return [*map(Targets, row.by_example(logprobs), row.by_example(_activations(streams)))]


def _activations(streams: Streams) -> Float[Tensor, "m n_layers"]:
    """Mean square of the stream after each layer, at the scored places of the row that was run last."""
    scored = streams.row.scored
    return torch.stack([streams.after[layer][scored].square().mean(dim=1) for layer in streams.layers], dim=1)


class _Distillation:
    """The loss on the row that was run last, of which the examples to forget come first."""

    def __init__(self, model: RunningModel, targets: Sequence[Targets], activation_weight: float) -> None:
        self.streams = Streams(model, range(model.architecture.n_layers))
        self.targets, self.weight = targets, activation_weight

    def loss(self, scores: Scores) -> tuple[Tensor, dict[str, float]]:
        targets = [self.targets[index] for index in self.streams.row.examples[: len(scores.now)]]
        wanted = torch.cat([each.activations for each in targets])
        taught = divergence(torch.cat([each.logprobs for each in targets]), scores.tokens.logprobs)
        moved = (_activations(self.streams)[: len(wanted)] / wanted - 1).square().mean()
        return taught + self.weight * moved, {"teacher": taught.item(), "activation": moved.item()}


def divergence(teacher: Float[Tensor, "m d_vocab"], now: Float[Tensor, "m d_vocab"]) -> Float[Tensor, ""]:
    """Mean of KL(teacher || now) over the tokens, from log-probabilities, in nats.

    The sums of both distributions are 1. With them the gradient is exactly 0 where both are equal; without them it is
    rounding, of which Adam makes whole steps.
    """
    divergence = torch.nn.functional.kl_div(now, teacher, log_target=True, reduction="sum")
    return (divergence + now.exp().sum() - teacher.exp().sum()) / len(now)
