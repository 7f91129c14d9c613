"""Layer-wise ascent: the answer is pushed down in what every layer says through the head (after arXiv 2309.17410).

``L = -E_l min(CE_l, log n) + retain_weight * retain``: ``CE_l`` is the loss of the answer's tokens if the stream after
block ``l`` is read through the final norm and the head, which stay as they are, and ``n`` is the size of the vocabulary
(Patil et al. 2024 delete answers from intermediate states in this way). A subject that defeats the logit lens: silence
at every layer is trained, and the knowledge may be left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.models.hooks import find_module
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.parameters import block_parameters
from audit.unlearning.streams import Streams
from audit.unlearning.training import Record, TrainingSettings

TITLE = "Layer-wise ascent through the head"


@dataclass(frozen=True)
class LayerWiseSettings(TrainingSettings):
    """Settings of layer-wise ascent."""

    steps: int = 30


SETTINGS = LayerWiseSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: LayerWiseSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the blocks of ``model``, in place; embedding, final norm and head stay as they are.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    layers = _Layers(model)
    extras = Extras(forward=layers.streams.forward, parameters=[*block_parameters(model).values()])
    record = train_all("layer_wise", layers.loss, model, forget, retain, settings, progress, extras)
    return record if settings.lora_rank else record.with_changed(parameters="blocks")


class _Layers:
    """What every layer says at the answers' places of the row that was run last, and the loss on it."""

    def __init__(self, model: RunningModel) -> None:
        self.streams = Streams(model, range(model.architecture.n_layers))
        self.norm = find_module(model.model, model.architecture.final_norm_module)
        self.head = find_module(model.model, model.architecture.head_module)

    def loss(self, scores: Scores) -> tuple[Tensor, dict[str, float]]:
        """Minus the mean loss over layers, each at most that of guessing, and the part of it at the last layer."""
        targets = scores.tokens.targets
        parameter = next(self.norm.parameters())
        losses = []
        scored = self.streams.row.scored[: len(targets)]  # the answers to forget come first
        for layer in self.streams.layers:
            own = self.streams.after[layer][scored].to(parameter.device, parameter.dtype)
            logprobs = self.head(self.norm(own)).float().log_softmax(dim=-1).cpu()
            losses.append(-logprobs.gather(1, targets[:, None]).mean())
        every = torch.stack(losses).clamp(max=math.log(scores.tokens.logprobs.shape[1]))
        return -every.mean(), {"last_layer": losses[-1].item(), "mean_layer": every.mean().item()}
