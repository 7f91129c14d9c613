"""Representation misdirection (RMU): what is to be forgotten is steered to a random direction (arXiv 2403.03218).

``L = E_t |h_t - c u|^2 / d + retain_weight * E_t |h_t - h_t,before|^2 / d`` (Li et al. 2024) over the residual stream
after one block: at the tokens of what is to be forgotten with a random unit vector ``u``, and at those of what is
retained. Only the value vectors of this block and the two before are trained. ``c`` is given in mean norms of the
stream there, as in its adaptive variant (Huu-Tien et al. 2024, arXiv 2408.06223), since norms differ between models.
Published code that divides ``[n]`` by ``[n, 1]`` averages over all pairs of examples; here the mean is over the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.errors import ModelError
from audit.models.hooks import find_module
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, pack
from audit.progress import SILENT, Progress
from audit.unlearning.streams import layer_at, places, stream_after, streams_of, without
from audit.unlearning.training import (
    Record,
    TrainingSettings,
    batches_of_both,
    minimise,
    prepare,
    require_positive,
    trainable,
    unused,
)

TITLE = "Representation misdirection for unlearning"
TRAINED = 3
"""Number of blocks whose value vectors are trained; the last of them is read."""


@dataclass(frozen=True)
class RMUSettings(TrainingSettings):
    """Settings of RMU.

    Attributes:
        layer: the block after which the stream is steered; -1 for the one at a quarter of the depth, as published.
        steering: norm of the target, in mean norms of the stream.
    """

    steps: int = 80
    learning_rate: float = 1e-3
    layer: int = -1
    steering: float = 2.0
    retain_loss: Literal["kl", "ce"] = unused("kl")
    lora_rank: int = unused(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "steering")


SETTINGS = RMUSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: RMUSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the value vectors of three blocks of ``model``, in place.

    Raises:
        AuditError: see ``training.prepare``; or there is no such block.
        ModelError: the FFN's output is no single matrix (experts), or training diverged.
    """
    layer = layer_at(model, settings.layer, 1 / 4)
    layers = range(max(0, layer - TRAINED + 1), layer + 1)
    trained = [_value_vectors(model, each) for each in layers]
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    with trainable(model.model, every=False):
        steering = _Steering.start(model, layer, answers, held, settings, progress)
        for parameter in trained:
            parameter.requires_grad_(True)
        text = f"Training value vectors ({TITLE})"
        trajectory = minimise(trained, steering.batches, steering.step, settings, progress, text)
    return Record(
        method="rmu",
        settings={**settings.as_json(), "layer": layer},
        examples={"forget": len(forget), "retain": len(retain) if settings.retain_weight else 0},
        trajectory=trajectory,
        changed={"value_vectors_of_layers": [*layers]},
    )


@dataclass
class _Steering:
    """The loss of a batch.

    Attributes:
        before: the stream before training at the tokens of each example ``[n_tokens, d_model]``.
    """

    model: RunningModel
    layer: int
    tokens: list[Tokens]
    target: Float[Tensor, " d_model"]
    before: list[Tensor]
    retain_weight: float
    batches: Iterator[tuple[list[int], list[int]]]

    @classmethod
    def start(
        cls,
        model: RunningModel,
        layer: int,
        forget: Sequence[Tokens],
        retain: Sequence[Tokens],
        settings: RMUSettings,
        progress: Progress,
    ) -> _Steering:
        """Read the stream before training; numbers of examples: those to forget first."""
        kept = list(retain) if settings.retain_weight else []
        tokens = [*forget, *kept]
        size = settings.forget_batch + settings.retain_batch
        before = streams_of(model, layer, tokens, size, progress)
        generator = torch.Generator().manual_seed(settings.seed)
        direction = torch.randn(before[0].shape[1], generator=generator)
        norm = torch.cat(before[: len(forget)]).norm(dim=1).mean()
        target = settings.steering * norm * direction / direction.norm()
        batches = batches_of_both(len(forget), len(kept), settings, generator)
        return cls(model, layer, tokens, target, before, settings.retain_weight, batches)

    def step(self, batches: tuple[list[int], list[int]]) -> tuple[Tensor, dict[str, float]]:
        """Loss of one of ``batches``, and its parts."""
        forget, retain = batches
        row = pack([(index, self.tokens[index]) for index in (*forget, *retain)])
        stream = stream_after(self.model, self.layer, row)
        kept = places(row.paths[len(forget) :])
        steered = without(places(row.paths[: len(forget)]), kept)  # not the beginning that both share
        away = (stream[steered] - self.target).square().mean() if len(steered) else stream.sum() * 0
        if not retain:
            return away, {"steered": away.item()}
        now = torch.cat([stream[path] for path in row.paths[len(forget) :]])
        held = (now - torch.cat([self.before[index] for index in retain])).square().mean()
        return away + self.retain_weight * held, {"steered": away.item(), "retain": held.item()}


def _value_vectors(model: RunningModel, layer: int) -> nn.Parameter:
    weight = getattr(find_module(model.model, model.architecture.out_module.format(layer=layer)), "weight", None)
    if not isinstance(weight, nn.Parameter):
        raise ModelError(f"the value vectors of layer {layer} are not one matrix.", hint="Choose another method.")
    return weight
