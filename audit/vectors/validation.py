"""Causal validation: do a concept's vectors carry it? Ablates single vectors, and chooses the set that carries most.

Candidates have two sources: vectors that write the concept's words (coherence), and neurons that its answers depend on
more than unrelated answers do (attribution, then ablation). The choosing split ranks them and decides how many are
taken; all reported numbers are from the held-out split. A vector carries the concept if zeroing it lowers the concept's
answers more than unrelated ones and more than zeroing a control vector does, by exact tests over at least 8 held-out
questions, corrected for the number of vectors (Benjamini-Hochberg). A set must also have an effect of some size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from audit.interventions import noise
from audit.models.loading import Bridge, RunningModel
from audit.models.tokenizer import Tokenizer
from audit.progress import SILENT, Progress
from audit.thresholds import COLLATERAL
from audit.vectors.attribution import Attribution, integrated_gradients, relp
from audit.vectors.coefficients import answer_logprobs_with, held_at, mean_coefficients
from audit.vectors.controls import Controls
from audit.vectors.effects import ControlledEffect, Effect
from audit.vectors.question_split import QuestionSplits, Split, split_questions, zeroed
from audit.vectors.records import CausalSet, NoiseDose, Validation, corrected
from audit.vectors.written_answers import written_effects
from concepts.concept import Concept, neutral_text
from concepts.discovery import ConceptVector
from concepts.neuron import Neuron

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Sizes of the sets that are tried."""
CORE: Final = 0.9
"""Share of the set's specificity that its core has."""
RESERVE: Final = (1.0, 3.0, 6.0)
"""Weights of a neuron's effect on unrelated answers, subtracted from its effect on the concept's; one ranking each."""
MIDDLE: Final = RESERVE[len(RESERVE) // 2]
REFINED: Final = 0.25
"""Share of the layers in which the attribution is refined: those with most of the best neurons."""
BEST: Final = 256
"""Neurons by which these layers are chosen."""
EXACT: Final = 24
"""Neurons of each attribution that are ablated one by one."""
CONTROL_QUESTIONS: Final = 16
"""Unrelated questions of the refined attribution: one row."""


@dataclass(frozen=True)
class ValidationOptions:
    """What is validated, and how.

    Attributes:
        listed: number of vectors that are ablated one by one.
        collateral: the most that unrelated answers may fall, in nats per answer token.
        bridge: loads the model with TransformerLens' hooks (``loading.load_bridge``); if given, the set's coefficients
            are also held while the weights stay unchanged.
        generate: also write the held-out answers without the set, and score them against those before.
    """

    listed: int = 20
    collateral: float = COLLATERAL
    bridge: Callable[[], Bridge] | None = None
    generate: bool = False


def validate(
    model: RunningModel,
    concept: Concept,
    vectors: Sequence[ConceptVector],
    controls: Controls,
    options: ValidationOptions = ValidationOptions(),
    seed: int = 0,
    progress: Progress = SILENT,
) -> Validation:
    """The effects of ablating ``vectors`` one by one, and the set that carries the concept.

    Args:
        vectors: that write the concept, best first, each neuron once (``search.significant``).

    Raises:
        ConceptError: see ``split_questions``.
    """
    splits = QuestionSplits(model, split_questions(model, concept, seed, progress), seed, progress)
    causal_set = choose_set(model, splits, [v.place for v in vectors], controls, options.collateral, progress)
    single = corrected([*single_effects(splits.held_out, vectors[: options.listed], controls, progress)])
    counts = splits.questions.counts()
    if causal_set is None:
        return Validation(single, None, counts, options.collateral)
    return Validation(
        vectors=single,
        causal_set=causal_set,
        core=core_of(splits.choosing, causal_set, progress),
        questions=counts,
        collateral=options.collateral,
        noise=tuple(dose_curve(model, splits.held_out, causal_set, seed, progress)),
        held=_held(model, concept, splits.held_out, causal_set, options.bridge, progress) if options.bridge else {},
        written=_written(model, splits, causal_set, progress) if options.generate else {},
    )


def single_effects(
    split: Split, vectors: Sequence[ConceptVector], controls: Controls, progress: Progress = SILENT
) -> Iterator[tuple[ConceptVector, ControlledEffect]]:
    """The effect of zeroing each vector alone."""
    others = controls([vector.place for vector in vectors])
    for done, (vector, control) in enumerate(zip(vectors, others, strict=True)):
        progress.step("Ablating vectors one by one", done, len(vectors))
        yield vector, ControlledEffect(split.zeroing([vector.place]), split.zeroing([control]))


def dose_curve(
    model: RunningModel, split: Split, causal_set: CausalSet, seed: int, progress: Progress = SILENT
) -> Iterator[NoiseDose]:
    """The effect of each size of noise on the set, and on its controls."""
    own, others = (
        [noise.noisy(model, neurons, each) for each in range(seed, seed + noise.DRAWS)]
        for neurons in (causal_set.neurons, causal_set.controls)
    )
    for done, size in enumerate(noise.DOSES):
        progress.step("Adding noise to the set", done, len(noise.DOSES))
        yield NoiseDose(size, ControlledEffect(split.mean_effect(own, size), split.mean_effect(others, size)))


def held_effects(
    bridge: Bridge, tokenizer: Tokenizer, split: Split, neurons: Sequence[Neuron], texts: Sequence[str]
) -> dict[str, Effect]:
    """The effect of holding the coefficients of ``neurons`` at zero, and at their mean over ``texts``."""
    examples = [*split.target.examples, *split.unrelated.examples]
    before = answer_logprobs_with(bridge, tokenizer, examples, {})
    coefficients = {"zero": held_at(neurons), "mean": mean_coefficients(bridge, tokenizer, texts, neurons)}
    return {
        name: split.by_question(before - answer_logprobs_with(bridge, tokenizer, examples, held))
        for name, held in coefficients.items()
    }


def _held(
    model: RunningModel,
    concept: Concept,
    split: Split,
    causal_set: CausalSet,
    bridge: Callable[[], Bridge],
    progress: Progress,
) -> Mapping[str, Effect]:
    progress.step("Holding coefficients")
    texts = [text for text in (concept.text, neutral_text()) if text]
    return held_effects(bridge(), model.tokenizer, split, causal_set.neurons, texts)


def _written(
    model: RunningModel, splits: QuestionSplits, causal_set: CausalSet, progress: Progress
) -> dict[str, ControlledEffect]:
    """Fall of each score of the answers written without the set, and without its controls."""
    changes = [zeroed(neurons, model.architecture.d_model) for neurons in (causal_set.neurons, causal_set.controls)]
    questions = splits.questions
    effects, controls = written_effects(
        model, questions.held_out, questions.unrelated_held_out, changes, splits.seed, progress
    )
    return {score: ControlledEffect(effect, controls[score]) for score, effect in effects.items()}


# ---- the set


def choose_set(
    model: RunningModel,
    splits: QuestionSplits,
    coherent: Sequence[Neuron],
    controls: Controls,
    collateral: float = COLLATERAL,
    progress: Progress = SILENT,
) -> CausalSet | None:
    """The set with the highest specificity on the choosing split, among those within the limit there."""
    tried: list[tuple[Effect, tuple[Neuron, ...]]] = []
    for order in candidate_orders(model, splits, coherent, progress):
        for size in [size for size in SIZES if size <= len(order)]:
            progress.step(f"Trying sets of {size} vectors")
            effect = splits.choosing.zeroing(order[:size])
            if effect.collateral > 2 * collateral:
                break  # larger sets of this order only do more harm
            if effect.collateral <= collateral:
                tried.append((effect, tuple(order[:size])))
    if not tried:
        return None
    choosing, neurons = max(tried, key=lambda pair: pair[0].specificity)
    others = tuple(controls(neurons))
    return CausalSet(
        neurons=neurons,
        coherent=tuple(place in set(coherent) for place in neurons),
        controls=others,
        choosing=choosing,
        held_out=splits.held_out.zeroing(neurons),
        control=splits.held_out.zeroing(others),
        before=splits.before,
        floor=splits.floor,
    )


def core_of(split: Split, causal_set: CausalSet, progress: Progress = SILENT) -> tuple[Neuron, ...]:
    """The fewest of the set's neurons, those first that do most alone, with ``CORE`` of its specificity.

    The set with the largest effect takes in neurons that add next to nothing; its core is where the concept sits.

    Args:
        split: the one on which the set was chosen.
    """
    ranked = next(_by_ablation(split, causal_set.neurons, progress))
    enough = CORE * causal_set.choosing.specificity
    sizes = range(1, len(ranked))
    smallest = next((size for size in sizes if split.zeroing(ranked[:size]).specificity >= enough), len(ranked))
    return tuple(ranked[:smallest])


def candidate_orders(
    model: RunningModel, splits: QuestionSplits, coherent: Sequence[Neuron], progress: Progress
) -> Iterator[list[Neuron]]:
    """Rankings of candidates, most promising first, each with a better estimate than the one before.

    The coherent neurons alone; all neurons by RelP; those of the best layers by integrated gradients; the best of both
    by ablating them one by one.
    """
    questions = splits.questions
    known = {place: place for place in coherent}  # with their signs

    def rankings(target: Attribution, unrelated: Attribution, count: int) -> dict[float, list[Neuron]]:
        best = {reserve: _best(target - reserve * unrelated, count) for reserve in RESERVE}
        return {reserve: [known.get(place, place) for place in places] for reserve, places in best.items()}

    target = relp(model, questions.choosing.examples, progress)
    unrelated = relp(model, questions.unrelated_choosing.examples, progress).abs()
    if coherent:
        specific = target - unrelated
        yield sorted(coherent, key=lambda place: -float(specific[place.layer, place.neuron]))
    by_relp = rankings(target, unrelated, BEST)
    yield from (order[: max(SIZES)] for order in by_relp.values())

    layers = _layers_of_most(by_relp[MIDDLE], len(target))
    few = questions.unrelated_choosing.examples[:CONTROL_QUESTIONS]
    target = integrated_gradients(model, questions.choosing.examples, layers, progress=progress)
    unrelated = integrated_gradients(model, few, layers, progress=progress).abs()
    refined = rankings(target, unrelated, max(SIZES))
    yield from refined.values()

    pool = [*by_relp[MIDDLE][:EXACT], *refined[MIDDLE][:EXACT], *coherent]
    yield from _by_ablation(splits.choosing, list(dict.fromkeys(pool))[: 2 * EXACT], progress)


def _by_ablation(split: Split, pool: Sequence[Neuron], progress: Progress) -> Iterator[list[Neuron]]:
    """``pool`` ranked by the effect of zeroing each neuron alone; by specificity first."""
    effects: dict[Neuron, Effect] = {}
    for done, place in enumerate(pool):
        progress.step("Ablating candidates one by one", done, len(pool))
        effects[place] = split.zeroing([place])
    for reserve in RESERVE[:-1]:
        yield sorted(
            effects, key=lambda place: reserve * max(effects[place].collateral, 0.0) - effects[place].on_target
        )


def _layers_of_most(neurons: Iterable[Neuron], n_layers: int) -> list[int]:
    """The share ``REFINED`` of the layers, those with most of ``neurons`` first."""
    counts = np.bincount([place.layer for place in neurons], minlength=n_layers)
    most: list[int] = np.argsort(-counts, kind="stable")[: math.ceil(REFINED * n_layers)].tolist()
    return most


def _best(scores: Attribution, count: int) -> list[Neuron]:
    """The neurons with the largest scores, best first; those that were not estimated (NaN) come last."""
    estimated = torch.nan_to_num(scores, nan=-torch.inf).flatten()
    best = estimated.topk(min(count, estimated.numel())).indices.tolist()
    return [Neuron(*divmod(flat, scores.shape[1])) for flat in best]
