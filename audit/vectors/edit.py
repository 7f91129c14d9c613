"""An edit of a concept's neurons: which ones, what their value vectors become, and its effect at each strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from audit.errors import AuditError, ConceptError
from audit.interventions import Change, EditInputs, Intervention, dose, methods
from audit.models.ffn import unembedding
from audit.models.loading import RunningModel
from audit.models.opening import OpenedModel
from audit.progress import Progress
from audit.request import RunContext
from audit.result import Cell, Control
from audit.thresholds import COLLATERAL
from audit.unlearning.training_examples import training_examples
from audit.vectors.controls import Controls, matched_controls
from audit.vectors.effects import Effect
from audit.vectors.question_split import QuestionSplits, split_questions
from audit.vectors.records import SearchResult
from audit.vectors.search import POOL, find_vectors, significant
from audit.vectors.validation import choose_set
from concepts.concept import Concept
from concepts.neuron import Neuron


@dataclass(frozen=True)
class EditOptions:
    """Which value vectors are edited, and how far.

    Attributes:
        neurons: to edit; if empty, those that the concept names (``Settings.known_vectors``), or else the set that
            ``audit.vectors.validation`` chooses.
        strength: how far the edit goes; if ``None``, the strongest of the method's doses within ``collateral``.
        collateral: the most that unrelated answers may fall on the choosing split, in nats per answer token.
        raw, everywhere: see ``interventions.EditInputs``.
    """

    neurons: Sequence[Neuron] = ()
    strength: float | None = None
    collateral: float = COLLATERAL
    raw: bool = False
    everywhere: bool = False


@dataclass(frozen=True)
class Dose:
    """The effect at one strength on each split, a mean over draws."""

    strength: float
    choosing: Effect
    held_out: Effect

    def as_row(self, chosen: bool) -> dict[str, Cell]:
        intervals = self.held_out.intervals()
        row: dict[str, Cell] = {"strength": self.strength, "chosen": chosen}
        for name, value in (("target", self.held_out.on_target), ("unrelated", self.held_out.collateral)):
            low, high = intervals[name] or (None, None)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return row


@dataclass(frozen=True)
class Edit:
    """A planned edit: which neurons, and what their value vectors become at full strength.

    Attributes:
        origin: how the neurons were chosen, in words.
        draws: the edit at full strength, once for each seed over which its effect is averaged; the first is applied.
        controls: the same edit of control vectors; ``None`` for a method that trains, or that edits every vector.
    """

    model: RunningModel
    splits: QuestionSplits
    neurons: tuple[Neuron, ...]
    origin: str
    draws: tuple[Change, ...]
    controls: Change | None

    @property
    def target(self) -> Change:
        """What is applied, at full strength."""
        return self.draws[0]

    def doses(self, strengths: Sequence[float], progress: Progress) -> list[Dose]:
        """The effect at each strength, weakest first."""
        doses = []
        for done, strength in enumerate(sorted(strengths)):
            progress.step("Trying strengths", done, len(strengths))
            splits = (self.splits.choosing, self.splits.held_out)
            doses.append(Dose(strength, *(split.mean_effect(self.draws, strength) for split in splits)))
        return doses

    def applied(self, chosen: Dose) -> Effect:
        """The held-out effect of the draw that is applied."""
        if len(self.draws) == 1:
            return chosen.held_out
        return self.splits.held_out.effect(dose(self.model, self.target, chosen.strength))

    def control(self, strength: float) -> Control | None:
        """The held-out effect of the same edit of control vectors."""
        if self.controls is None:
            return None
        effect = self.splits.held_out.effect(dose(self.model, self.controls, strength))
        return Control(
            name="the same edit of as many vectors of the same layers and nearest norm",
            value=effect.specificity,
            interval=effect.intervals()["specificity"],
        )


def find_method(method: str) -> Intervention:
    """The method of that name.

    Raises:
        AuditError: there is none.
    """
    if method not in methods():
        raise AuditError(f"no method {method!r}.", hint=f"Choose one of {', '.join(methods())}.")
    return methods()[method]


def plan_edit(
    opened: OpenedModel,
    model: RunningModel,
    concept: Concept,
    method: str,
    options: EditOptions,
    context: RunContext = RunContext(),
) -> Edit:
    """The neurons to edit, and their value vectors after ``method``.

    Args:
        model: ``opened``, loaded; it stays unchanged.

    Raises:
        AuditError: see ``find_method``, ``split_questions`` and ``interventions.by_layer``.
        ConceptError: no neurons are given, and none carries or writes the concept.
    """
    intervention = find_method(method)
    seed, progress = context.settings.seed, context.progress
    questions = split_questions(model, concept, seed, progress)
    result = find_vectors(opened, concept, limit=POOL, seed=seed, progress=progress)
    splits = QuestionSplits(model, questions, seed, progress)
    controls = partial(matched_controls, opened, per_vector=1, candidates=result.candidates)
    neurons, origin = (
        (_with_signs(options.neurons, result), "given")
        if options.neurons
        else _chosen_neurons(result, splits, model, controls, progress)
    )
    examples = training_examples(concept.model_copy(update={"questions": questions.choosing_questions}))
    inputs = EditInputs(
        tokens=np.asarray(result.tokens.ids),
        W_U=unembedding(opened.checkpoint, model.architecture),
        forget=examples.forget,
        retain=examples.retain,
        raw=options.raw,
        everywhere=options.everywhere,
        seed=seed,
        progress=progress,
    )
    draws = (replace(inputs, seed=each) for each in range(seed, seed + intervention.DRAWS))
    costly = intervention.TRAINS or options.everywhere
    return Edit(
        model=model,
        splits=splits,
        neurons=tuple(neurons),
        origin=origin,
        draws=tuple(intervention.target(model, neurons, draw) for draw in draws),
        controls=None if costly else intervention.target(model, controls(neurons), inputs),
    )


def choose_dose(edit: Edit, method: str, options: EditOptions, progress: Progress) -> tuple[Sequence[Dose], Dose]:
    """The doses that were tried, weakest first, and the one to apply: of the given strength, or else ``strongest``."""
    if options.strength is not None:
        (chosen,) = edit.doses([options.strength], progress)
        return [chosen], chosen
    doses = edit.doses(find_method(method).DOSES, progress)
    return doses, strongest(doses, options.collateral, method)


def strongest(doses: Sequence[Dose], collateral: float, method: str) -> Dose:
    """The strongest dose within the limit on the choosing split.

    Raises:
        AuditError: every dose exceeds the limit.
    """
    allowed = [dose for dose in doses if dose.choosing.collateral <= collateral]
    if not allowed:
        least = doses[0]
        raise AuditError(
            f"no strength of {method} stays within the collateral limit of {collateral:g} nats per answer token: the "
            f"weakest, {least.strength:g}, costs unrelated answers {least.choosing.collateral:.3f}.",
            hint="Raise --collateral, or give --strength.",
        )
    return max(allowed, key=lambda dose: dose.choosing.on_target)


def _with_signs(neurons: Sequence[Neuron], result: SearchResult) -> Sequence[Neuron]:
    """``neurons``, with the sign by which the search listed them where it did."""
    listed = {vector.place: vector.place for vector in reversed(result.vectors)}
    return [listed.get(place, place) for place in neurons]


def _chosen_neurons(
    result: SearchResult, splits: QuestionSplits, model: RunningModel, controls: Controls, progress: Progress
) -> tuple[Sequence[Neuron], str]:
    """The set that carries the concept, or else the neurons that write it; with where they come from, in words."""
    coherent = [vector.place for vector in significant(result)]
    causal_set = choose_set(model, splits, coherent, controls, progress=progress)
    if causal_set is not None:
        origin = "the set with the largest effect on the choosing questions within the collateral limit"
        specific = "" if causal_set.is_specific else "; on held-out questions it is not specific"
        return causal_set.neurons, f"{origin}{specific}"
    if not coherent:
        raise ConceptError(
            f"no value vector of the model carries {result.concept.title}: none writes it beyond chance, and no set "
            "lowers its answers within the collateral limit.",
            hint="Name vectors with --vectors, or raise --collateral.",
        )
    return coherent, "vectors that write the concept; no set stays within the collateral limit"
