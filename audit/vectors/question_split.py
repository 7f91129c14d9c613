"""One model with the questions of a concept and unrelated ones, each on two sides, on which edits are tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audit.interventions import Change, Place, Rows, dose
from audit.models.loading import RunningModel
from audit.progress import Progress
from audit.vectors.asking import Asked, Questions, asked_under
from audit.vectors.effects import Effect, Trial

WRONG = 4
"""Unrelated questions after which a concept's answer is scored, for the floor."""


@dataclass(frozen=True)
class Spot:
    """A value vector by its place."""

    layer: int
    neuron: int
    sign: int = 1


class Bench:
    """Both sides: vectors and strengths are chosen on ``choosing``, what is reported is read on ``reporting``.

    ``before`` and ``floor`` are the mean log-probability of the reporting side's answers, in nats per token: as the
    model gives them, and after unrelated questions, where nothing calls for them.
    """

    def __init__(self, model: RunningModel, questions: Questions, seed: int, progress: Progress) -> None:
        self.questions, self.seed = questions, seed
        self.choosing = Side(model, questions.choose, questions.unrelated_choose, seed, progress)
        self.reporting = Side(model, questions.report, questions.unrelated_report, seed, progress)
        wrong = asked_under(questions.report, questions.unrelated_report, WRONG)
        self.before = float(questions.report.by_question(self.reporting.before).mean())
        self.floor = float(wrong.by_question(Trial(model, wrong.examples, model.architecture.n_layers).before).mean())


class Side:
    """Questions about the concept and unrelated ones of one side, put to a model after an edit."""

    def __init__(self, model: RunningModel, target: Asked, unrelated: Asked, seed: int, progress: Progress) -> None:
        self.target, self.unrelated, self.seed = target, unrelated, seed
        self.trial = Trial(model, [*target.examples, *unrelated.examples], progress=progress)
        self.before = self.trial.before[: len(target.examples)]

    def effect(self, change: Change) -> Effect:
        return self.of(self.trial.effect(change))

    def of(self, found: np.ndarray) -> Effect:
        """The effect by question, from that on each example."""
        cut = len(self.target.examples)
        return Effect(self.target.by_question(found[:cut]), self.unrelated.by_question(found[cut:]), self.seed)

    def without(self, spots: Iterable[Place]) -> Effect:
        """``effect`` of zeroing."""
        return self.effect(zeroed(spots, self.trial.model.architecture.d_model))

    def dosed(self, draws: Sequence[Change], strength: float) -> Effect:
        """``effect`` at ``strength``, each question's a mean over the ``draws`` of one edit."""
        falls = [self.trial.effect(dose(self.trial.model, draw, strength)) for draw in draws]
        return self.of(np.mean(falls, axis=0))


def zeroed(spots: Iterable[Place], d_model: int) -> Change:
    """The change that sets value vectors to zero."""
    layers: dict[int, list[int]] = {}
    for layer, neuron in sorted({(spot.layer, spot.neuron) for spot in spots}):
        layers.setdefault(layer, []).append(neuron)
    return {layer: Rows(tuple(neurons), torch.zeros(len(neurons), d_model)) for layer, neurons in layers.items()}
