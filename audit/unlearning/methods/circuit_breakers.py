"""Circuit breakers: the states of what is forgotten are turned away from what they were (arXiv 2406.04313).

``L = c_s E_t relu(cos(h_t, h_t,before)) + c_r E_t |h_t - h_t,before|`` (Zou et al. 2024) over the residual stream after
some blocks: the first term at the tokens of what is to be forgotten, the second at those of what is retained, relative
to the stream's mean norm. ``c_s`` falls from 1 to 1/2 and ``c_r`` rises from 0 to 1/2 in the course of the training.
Trained are the matrices of the blocks up to the last of these; in the paper, low-rank updates of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, Tokens, pack
from audit.progress import SILENT, Progress
from audit.unlearning.parameters import block_matrices
from audit.unlearning.streams import places, streams_after, without
from audit.unlearning.training import (
    Record,
    TrainingSettings,
    batches_of_both,
    minimise,
    prepare,
    rows_of,
    trainable,
    unused,
)

TITLE = "Circuit breakers"
DEPTHS = (1 / 3, 2 / 3)
"""Blocks after which the stream is read, as shares of the depth; the paper takes 10 and 20 of 32."""


@dataclass(frozen=True)
class CircuitBreakerSettings(TrainingSettings):
    """Settings of circuit breakers; ``retain_weight`` multiplies ``c_r``."""

    steps: int = 60
    learning_rate: float = 1e-4
    retain_weight: float = 2.0
    retain_loss: Literal["kl", "ce"] = unused("kl")
    lora_rank: int = unused(0)


SETTINGS = CircuitBreakerSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: CircuitBreakerSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the matrices of the lower blocks of ``model``, in place.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: training diverged, or see ``packing.answer_logprobs``.
    """
    layers = sorted(
        {min(int(depth * model.architecture.n_layers), model.architecture.n_layers - 1) for depth in DEPTHS}
    )
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    trained = block_matrices(model, layers[-1] + 1)
    with trainable(model.model, every=False):
        rerouting = _Rerouting(model, layers, answers, held if settings.retain_weight else [], settings)
        rerouting.read(progress)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        text = f"Training the blocks up to {layers[-1]} ({TITLE.lower()})"
        trajectory = minimise(trained.values(), rerouting.batches, rerouting.step, settings, progress, text)
    return Record(
        method="circuit_breakers",
        settings={**settings.as_json(), "layers": layers},
        examples={"forget": len(forget), "retain": len(retain) if settings.retain_weight else 0},
        trajectory=trajectory,
        changed={"matrices_of_layers": [*range(layers[-1] + 1)]},
    )


class _Rerouting:
    """The loss of a batch; numbers of examples: those to forget first."""

    def __init__(
        self,
        model: RunningModel,
        layers: Sequence[int],
        forget: Sequence[Tokens],
        retain: Sequence[Tokens],
        settings: CircuitBreakerSettings,
    ) -> None:
        self.model, self.layers, self.settings = model, layers, settings
        self.tokens = [*forget, *retain]
        generator = torch.Generator().manual_seed(settings.seed)
        self.batches = enumerate(batches_of_both(len(forget), len(retain), settings, generator))
        self.before: list[dict[int, Tensor]] = []
        self.norms: dict[int, float] = {}

    def read(self, progress: Progress) -> None:
        """The streams before training, at the tokens of each example."""
        size = self.settings.forget_batch + self.settings.retain_batch
        with torch.no_grad():
            for row in rows_of(self.tokens, size, progress):
                streams, _ = streams_after(self.model, self.layers, row)
                self.before += [{layer: streams[layer][path] for layer in self.layers} for path in row.paths]
        for layer in self.layers:
            self.norms[layer] = torch.cat([each[layer] for each in self.before]).norm(dim=1).mean().item()

    def step(self, batches: tuple[int, tuple[list[int], list[int]]]) -> tuple[Tensor, dict[str, float]]:
        """Loss of one of ``batches``, and its parts."""
        done, (forget, retain) = batches
        row = pack([(index, self.tokens[index]) for index in (*forget, *retain)])
        streams, _ = streams_after(self.model, self.layers, row)
        share = done / (2 * self.settings.steps)
        turned = self._turned(row, streams, forget)
        loss, readings = (1 - share) * turned, {"cosine": turned.item()}
        if retain:
            moved = self._moved(row, streams, retain, len(forget))
            loss = loss + self.settings.retain_weight * share * moved
            readings["retain"] = moved.item()
        return loss, readings

    def _turned(self, row: Pack, streams: dict[int, Tensor], forget: Sequence[int]) -> Tensor:
        """Mean cosine with the stream before training where it is above 0, at the tokens of no retained example."""
        own = without(places(row.paths[: len(forget)]), places(row.paths[len(forget) :]))
        terms = [torch.zeros(0)]
        for layer in self.layers:
            before = torch.zeros_like(streams[layer])
            for path, index in zip(row.paths, forget, strict=False):
                before[path] = self.before[index][layer]
            terms.append(torch.cosine_similarity(streams[layer][own], before[own], dim=1).relu())
        every = torch.cat(terms)
        return every.mean() if len(every) else streams[self.layers[0]].sum() * 0

    def _moved(self, row: Pack, streams: dict[int, Tensor], retain: Sequence[int], n_forget: int) -> Tensor:
        """Mean distance from the stream before training at the retained tokens, in mean norms of the stream."""
        terms = []
        for layer in self.layers:
            now = torch.cat([streams[layer][path] for path in row.paths[n_forget:]])
            before = torch.cat([self.before[index][layer] for index in retain])
            terms.append((now - before).square().sum(dim=1).add(1e-12).sqrt() / self.norms[layer])
        return torch.cat(terms).mean()
