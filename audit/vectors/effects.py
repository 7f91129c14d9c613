"""The effect of an edit of value vectors on answers, measured without applying the edit.

A ``Trial`` holds a model, its questions in packed rows, and the residual stream that enters each layer. An edit in
layer ``l`` changes nothing below it, so only ``l`` and the layers above are run; edits in the last layers cost almost
nothing. Answers are teacher-forced: log-probability changes smoothly with the edit, generated text in jumps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.interventions import Change
from audit.models.ffn import value_rows
from audit.models.hooks import BlockInputs, adding_to_value_vectors, recording_block_inputs, starting_at
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.models.scoring import SHORT_PROMPTS, answer_means, packed
from audit.progress import SILENT, Progress
from audit.result import ControlledEffectRecord, EffectRecord, Estimate
from audit.statistics import (
    Interval,
    bootstrap_interval,
    independent_ratio_interval,
    sign_flip_p_value,
    two_sample_interval,
    two_sample_p_value,
)

UNIT = "fall of the answer's log-probability, nats per answer token"
FEWEST_QUESTIONS = 8
"""Held-out questions about a concept below which nothing is said to carry it: the sign-flip test of seven has no
p-value below 1/128, so that after a correction for several vectors hardly any could be significant."""
FLOOR = 0.002
"""Nats per answer token: smaller effects are noise of rounding and wording. Ratios divide by at least this."""


class Trial:
    """A model's answers to fixed questions, before and after any edit.

    Attributes:
        before: mean log-probability of each answer's tokens in the unedited model, in nats ``[n_questions]``.
    """

    def __init__(
        self, model: RunningModel, questions: Sequence[Example], lowest: int = 0, progress: Progress = SILENT
    ) -> None:
        """Run every question once.

        Args:
            lowest: the lowest layer that may be edited; inputs of the layers below are not kept.

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
        """Mean log-probability of each answer's tokens with ``change`` applied, in nats.

        Raises:
            ValueError: ``change`` edits a layer below ``lowest``.
        """
        start = min(change)
        if start < self.lowest:
            raise ValueError(f"layer {start} is below {self.lowest}, the lowest this trial was prepared for")
        means = []
        with torch.inference_mode(), writing(self.model, change):
            for row, kept in zip(self.rows, self.kept, strict=True):
                with starting_at(self.model, start, kept):
                    means.append(_means(self.model, row))
        after: np.ndarray = np.concatenate(means)
        return after

    def effect(self, change: Change) -> Float[np.ndarray, " n_questions"]:
        """Fall of each answer's log-probability, in nats per answer token; negative if it rises."""
        fall: np.ndarray = self.before - self.after(change)
        return fall


def _means(model: RunningModel, row: Pack) -> Float[np.ndarray, " n_examples"]:
    means: np.ndarray = answer_means(row, answer_logprobs(model, row)).double().numpy()
    return means


@dataclass(frozen=True)
class Effect:
    """The effect of an edit on answers about a concept and on unrelated ones.

    Attributes:
        target, unrelated: fall of each question's answer, in ``unit``.
        seed: of the bootstrap.
    """

    target: Float[np.ndarray, " n_target"]
    unrelated: Float[np.ndarray, " n_unrelated"]
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
        """Mean fall of the concept's answers minus that of unrelated ones."""
        return self.on_target - self.collateral

    @property
    def ratio(self) -> float:
        """Mean fall of the concept's answers over that of unrelated ones, which counts as at least ``FLOOR``."""
        return self.on_target / max(self.collateral, FLOOR)

    def intervals(self) -> dict[str, Interval | None]:
        """Intervals over questions of all four numbers; ``None`` for fewer than two questions.

        That of the ratio is Fieller's, and ``None`` where unrelated answers do not clearly fall; the others are
        bootstrap intervals.
        """
        return {
            "target": bootstrap_interval(self.target, seed=self.seed),
            "unrelated": bootstrap_interval(self.unrelated, seed=self.seed),
            "specificity": two_sample_interval(self.target, self.unrelated, _difference, seed=self.seed),
            "ratio": independent_ratio_interval(self.target, self.unrelated),
        }

    def record(self) -> EffectRecord:
        intervals = self.intervals()
        return EffectRecord(
            target=_estimate(self.on_target, intervals["target"]),
            unrelated=_estimate(self.collateral, intervals["unrelated"]),
            specificity=_estimate(self.specificity, intervals["specificity"]),
            ratio=_estimate(self.ratio, intervals["ratio"]),
            questions={"target": len(self.target), "unrelated": len(self.unrelated)},
            unit=self.unit,
        )


@dataclass(frozen=True)
class ControlledEffect:
    """An edit's effect on the held-out questions, and that of the same edit of control vectors."""

    effect: Effect
    control: Effect

    @property
    def excess(self) -> float:
        """The specificity minus that of the control vectors."""
        return self.effect.specificity - self.control.specificity

    @property
    def p_value(self) -> float | None:
        """P-value of the edit being specific; ``None`` for fewer than ``FEWEST_QUESTIONS`` questions about the concept.

        Two null hypotheses must be rejected, so it is the larger of two p-values: answers about the concept fall as
        with the control vectors (sign-flip test over questions); they fall as unrelated answers do (permutation test).
        """
        effect = self.effect
        if len(effect.target) < FEWEST_QUESTIONS:
            return None
        against_control = sign_flip_p_value(effect.target - self.control.target, seed=effect.seed)
        return max(against_control, two_sample_p_value(effect.target, effect.unrelated, seed=effect.seed))

    def record(self) -> ControlledEffectRecord:
        return ControlledEffectRecord(**dict(self.effect.record()), control=self.control.record())


def _estimate(value: float, interval: Interval | None) -> Estimate:
    """``None`` for the mean of no questions."""
    return Estimate(value=value if math.isfinite(value) else None, interval=interval)


def _difference(target: np.ndarray, unrelated: np.ndarray, axis: int = -1) -> np.ndarray:
    difference: np.ndarray = target.mean(axis=axis) - unrelated.mean(axis=axis)
    return difference


def writing(model: RunningModel, change: Change) -> ExitStack:
    """Run with ``change`` applied to the value vectors; the model's weights stay unchanged."""

    def delta(layer: int) -> Float[Tensor, "n d_model"]:
        stored = value_rows(model, layer)
        return change[layer].values.to(stored.device) - stored[list(change[layer].neurons)].float()

    return adding_to_value_vectors(model, {layer: (rows.neurons, delta(layer)) for layer, rows in change.items()})
