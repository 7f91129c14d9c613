"""What an edit of value vectors does to answers, measured without making it.

A ``Trial`` holds a model, its questions in packed rows, and the residual stream that enters each layer. An edit in
layer ``l`` leaves everything below as it is, so ``l`` and the layers above run alone; edits in the last layers cost
almost nothing. Answers are teacher-forced: their log-probability is smooth, where generated text only jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.interventions import Change, value_rows
from audit.models.hooks import BlockInputs, adding_to_value_vectors, recording_block_inputs, starting_at
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.models.scoring import SHORT_PROMPTS, answer_means, packed
from audit.progress import SILENT, Progress
from audit.statistics import Interval, bootstrap_interval, two_sample_interval

UNIT = "fall of the answer's log-probability, nats per answer token"
FLOOR = 0.002
"""Nats per answer token: effects below are those of rounding and chance wordings; ratios do not divide by less."""


class Trial:
    """Questions put to a model as it would be after an edit, as often as wanted."""

    def __init__(
        self, model: RunningModel, questions: Sequence[Example], lowest: int = 0, progress: Progress = SILENT
    ) -> None:
        """Runs every question once.

        Args:
            lowest: the lowest layer that will be edited; what enters layers below is not kept.

        Raises:
            AuditError: a question or an answer is empty.
            ModelError: a question is too long, or the model cannot run packed examples.
        """
        self.model, self.lowest, self.n = model, lowest, len(questions)
        self.rows = [*packed(model, questions, SHORT_PROMPTS)]
        self.kept: list[BlockInputs] = []
        before = []
        with torch.inference_mode():
            for done, row in enumerate(self.rows):
                progress.step("Reading the answers before any edit", done, len(self.rows))
                with recording_block_inputs(model, range(lowest, model.architecture.n_layers)) as kept:
                    before.append(_means(model, row))
                self.kept.append(kept)
        self.before = np.concatenate(before)

    def after(self, change: Change) -> Float[np.ndarray, " n_questions"]:
        """Mean log-probability of each answer's tokens, in nats, as if ``change`` were written."""
        start = min(change)
        if start < self.lowest:
            raise ValueError(f"layer {start} is below {self.lowest}, the lowest this trial was prepared for")
        found = []
        with torch.inference_mode(), writing(self.model, change):
            for row, kept in zip(self.rows, self.kept, strict=True):
                with starting_at(self.model, start, kept):
                    found.append(_means(self.model, row))
        together: np.ndarray = np.concatenate(found)
        return together

    def effect(self, change: Change) -> Float[np.ndarray, " n_questions"]:
        """How far each answer falls, in nats per answer token; negative where it rises."""
        fall: np.ndarray = self.before - self.after(change)
        return fall


def _means(model: RunningModel, row: Pack) -> Float[np.ndarray, " n_examples"]:
    means: np.ndarray = answer_means(row, answer_logprobs(model, row)).double().numpy()
    return means


@dataclass(frozen=True)
class Effect:
    """What an edit does to answers about a concept and to unrelated ones.

    Attributes:
        target, unrelated: fall of each question's answer in nats per answer token, ``[n]`` each.
        seed: of the bootstrap.
        unit: of the falls, if another.
    """

    target: np.ndarray
    unrelated: np.ndarray
    seed: int = 0
    unit: str = UNIT

    @property
    def on_target(self) -> float:
        return float(self.target.mean())

    @property
    def collateral(self) -> float:
        return float(self.unrelated.mean())

    @property
    def specificity(self) -> float:
        """How much more the concept's answers fall than unrelated ones."""
        return self.on_target - self.collateral

    @property
    def ratio(self) -> float:
        """How many times more, an unrelated effect below ``FLOOR`` counting as ``FLOOR``."""
        return float(_ratio(self.target, self.unrelated))

    def intervals(self) -> dict[str, Interval | None]:
        """Bootstrap intervals over questions of all four numbers."""
        return {
            "target": bootstrap_interval(self.target, seed=self.seed),
            "unrelated": bootstrap_interval(self.unrelated, seed=self.seed),
            "specificity": two_sample_interval(self.target, self.unrelated, _difference, seed=self.seed),
            "ratio": two_sample_interval(self.target, self.unrelated, _ratio, seed=self.seed),
        }

    def as_json(self) -> dict[str, Any]:
        values = {
            "target": self.on_target,
            "unrelated": self.collateral,
            "specificity": self.specificity,
            "ratio": self.ratio,
        }
        intervals = self.intervals()
        return {
            **{name: {"value": value, "interval": intervals[name]} for name, value in values.items()},
            "questions": {"target": len(self.target), "unrelated": len(self.unrelated)},
            "unit": self.unit,
        }


def _difference(target: np.ndarray, unrelated: np.ndarray, axis: int = -1) -> np.ndarray:
    found: np.ndarray = target.mean(axis=axis) - unrelated.mean(axis=axis)
    return found


def _ratio(target: np.ndarray, unrelated: np.ndarray, axis: int = -1) -> np.ndarray:
    found: np.ndarray = target.mean(axis=axis) / np.maximum(unrelated.mean(axis=axis), FLOOR)
    return found


def writing(model: RunningModel, change: Change) -> ExitStack:
    """Run as if ``change`` were written into the model's value vectors, which stay as they are."""

    def delta(layer: int) -> Float[Tensor, "n d_model"]:
        stored = value_rows(model, layer)
        return change[layer].values.to(stored.device) - stored[list(change[layer].neurons)].float()

    return adding_to_value_vectors(model, {layer: (rows.neurons, delta(layer)) for layer, rows in change.items()})
