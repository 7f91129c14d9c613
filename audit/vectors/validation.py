"""Do the vectors found carry the concept? Ablate them, ask again, and look for the set that hurts it and nothing else.

Candidates come from two sides: vectors that write the concept's words (coherence) and neurons that its answers rest on
more than unrelated answers do (attribution, then ablation). Questions on the choosing side order them and decide how
many are taken; every number that is reported is read on the other side. A vector is called a concept vector if zeroing
it lowers the concept's answers more than unrelated ones, with an interval that excludes none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from audit.interventions import Place, noise
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.thresholds import COLLATERAL
from audit.vectors.asking import Questions, known_questions
from audit.vectors.attribution import Attribution, integrated_gradients, relp
from audit.vectors.coefficients import answer_logprobs_with, held_at, mean_coefficients
from audit.vectors.effects import Effect
from audit.vectors.question_split import Bench, Side, Spot, zeroed
from audit.vectors.written_answers import written_effects
from concepts.concept import Concept, neutral_text
from concepts.discovery import ConceptVector

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Sizes of the sets that are tried."""
RESERVE: Final = (1.0, 3.0, 6.0)
"""How much an effect on unrelated answers weighs against a neuron; each gives an order of candidates."""
REFINED: Final = 0.25
"""Share of the layers, those with most of the best neurons, in which the attribution is refined."""
BEST: Final = 256
"""Neurons by which these layers are chosen."""
EXACT: Final = 24
"""Neurons of each attribution that are ablated one by one."""
CONTROL_QUESTIONS: Final = 16
"""Unrelated questions of the refined attribution: one row."""
SPECIFIC: Final = 5.0
"""A set is the concept's if its answers fall this many times as far as unrelated ones (interval above 1)."""


@dataclass(frozen=True)
class VectorEffect:
    """What zeroing one vector does on the reporting side, and what zeroing its controls does to the same questions."""

    vector: ConceptVector
    effect: Effect
    control: Effect

    @property
    def carries(self) -> bool:
        """Whether it is called a concept vector."""
        interval = self.effect.intervals()["specificity"]
        return interval is not None and interval[0] > 0 and self.effect.specificity > self.control.specificity

    def as_json(self) -> dict[str, Any]:
        return {**self.effect.as_json(), "control": self.control.as_json(), "carries": self.carries}


@dataclass(frozen=True)
class FoundSet:
    """The set with the largest effect within the collateral limit, by the choosing side.

    Attributes:
        coherent: which of ``vectors`` write the concept's words.
        beside: as many vectors of the same layers and nearest norms, the control.
        choosing: the effect by which it was chosen.
        held_out: the effect on the questions that took no part.
        control: of ``beside``, on these questions.
        before, floor: mean log-probability of the held-out answers, in nats per token: as the model gives them, and
            after unrelated questions, where nothing calls for them.
    """

    vectors: tuple[Spot, ...]
    coherent: tuple[bool, ...]
    beside: tuple[Spot, ...]
    choosing: Effect
    held_out: Effect
    control: Effect
    before: float
    floor: float

    @property
    def is_specific(self) -> bool:
        """Whether it counts as the concept's set."""
        interval = self.held_out.intervals()["ratio"]
        return self.held_out.ratio >= SPECIFIC and interval is not None and interval[0] > 1

    @property
    def share_of_the_way(self) -> float | None:
        """How far the answers fall, of the way down to the floor; ``None`` where they stand there already."""
        way = self.before - self.floor
        return self.held_out.on_target / way if way > 0 else None

    def as_json(self) -> dict[str, Any]:
        return {
            "vectors": [
                {"layer": spot.layer, "neuron": spot.neuron, "coherent": coherent}
                for spot, coherent in zip(self.vectors, self.coherent, strict=True)
            ],
            "specific": self.is_specific,
            "held_out": self.held_out.as_json(),
            "control": self.control.as_json(),
            "choosing": self.choosing.as_json(),
            "log_probability_before": self.before,
            "log_probability_floor": self.floor,
            "share_of_the_way_to_the_floor": self.share_of_the_way,
        }


@dataclass(frozen=True)
class NoiseDose:
    """What noise on the set does to the held-out questions, and noise on its controls; means over draws.

    ``size`` is the noise's norm over the vector's own.
    """

    size: float
    effect: Effect
    control: Effect

    def as_json(self) -> dict[str, Any]:
        return {"size": self.size, **self.effect.as_json(), "control": self.control.as_json()}


@dataclass(frozen=True)
class Validation:
    """What ablation says of a concept's vectors in one model.

    Attributes:
        found: ``None`` where no set stays within the collateral limit.
        doses: the set's dose curve over sizes of noise, the smallest first.
        held: the set's effect on the held-out questions with its coefficients held at ``"zero"`` and at their
            ``"mean"`` over the concept's text and neutral text; empty where that was not asked for.
        written, written_control: BLEU and ROUGE-L of the held-out answers that the model writes without the set, and
            without its controls (``audit.vectors.written_answers``); empty where that was not asked for.
    """

    vectors: tuple[VectorEffect, ...]
    found: FoundSet | None
    questions: Questions
    collateral: float
    doses: tuple[NoiseDose, ...] = ()
    held: Mapping[str, Effect] = field(default_factory=dict)
    written: Mapping[str, Effect] = field(default_factory=dict)
    written_control: Mapping[str, Effect] = field(default_factory=dict)

    @property
    def disagreement(self) -> float | None:
        """Largest difference of an answer's fall, vectors zeroed against coefficients held at zero, in nats per token.

        They are the same edit, so that more than rounding says that one of the two is at fault.
        """
        if self.found is None or "zero" not in self.held:
            return None
        pairs = zip(_falls(self.found.held_out), _falls(self.held["zero"]), strict=True)
        return max(float(np.abs(one - other).max()) for one, other in pairs)

    def as_json(self) -> dict[str, Any]:
        return {
            "set": None if self.found is None else self.found.as_json(),
            "noise": [each.as_json() for each in self.doses],
            "coefficients_held": {name: effect.as_json() for name, effect in self.held.items()},
            "held_at_zero_differs_from_zeroed_by": self.disagreement,
            "written_answers": {
                name: {**effect.as_json(), "control": self.written_control[name].as_json()}
                for name, effect in self.written.items()
            },
            "collateral_limit": self.collateral,
            "questions": {
                "choosing": self.questions.choose.n,
                "held_out": self.questions.report.n,
                "unrelated_choosing": self.questions.unrelated_choose.n,
                "unrelated_held_out": self.questions.unrelated_report.n,
                "not_known_by_the_model": list(self.questions.unknown),
            },
        }


def _falls(effect: Effect) -> tuple[np.ndarray, np.ndarray]:
    return effect.target, effect.unrelated


Controls = Callable[[Sequence[Place]], Sequence[tuple[int, int, int]]]
"""Gives for each vector one other of its layer and nearest norm, as (layer, neuron, sign)."""


def validate(
    model: RunningModel,
    concept: Concept,
    vectors: Sequence[ConceptVector],
    controls: Controls,
    *,
    listed: int = 20,
    collateral: float = COLLATERAL,
    bridge: Callable[[], Any] | None = None,
    generated: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Validation:
    """Ablate ``vectors`` one by one, and search for the set that carries the concept.

    Args:
        vectors: that write the concept, best first (``audit.vectors.search.find``).
        controls: see ``Controls``.
        listed: how many of them are ablated one by one.
        collateral: the most that unrelated answers may fall, in nats per answer token.
        bridge: gives the model with TransformerLens' hooks (``running.load_bridge``), to hold the set's coefficients
            beside editing its vectors.
        generated: also write the held-out answers without the set, and score them against those of before.

    Raises:
        ConceptError: see ``known_questions``.
    """
    questions = known_questions(model, concept, seed, progress)
    bench = Bench(model, questions, seed, progress)
    found = search(model, bench, vectors, controls, collateral, progress)
    single, side = [], bench.reporting
    shown = vectors[:listed]
    for done, (vector, (layer, neuron, _)) in enumerate(zip(shown, controls(shown), strict=True)):
        progress.step("Ablating vectors one by one", done, len(shown))
        single.append(VectorEffect(vector, side.without([vector]), side.without([Spot(layer, neuron)])))
    if found is None:
        return Validation(tuple(single), None, questions, collateral)
    doses = tuple(dose_curve(model, side, found, seed, progress))
    held: Mapping[str, Effect] = {}
    if bridge is not None:
        progress.step("Holding coefficients instead")
        texts = [text for text in (concept.text, neutral_text()) if text]
        held = holding(bridge(), model.tokenizer, side, found.vectors, texts)
    written: Sequence[Mapping[str, Effect]] = ({}, {})
    if generated:
        changes = [zeroed(spots, model.architecture.d_model) for spots in (found.vectors, found.beside)]
        written = written_effects(model, questions.report, questions.unrelated_report, changes, seed, progress)
    return Validation(tuple(single), found, questions, collateral, doses, held, *written)


def dose_curve(
    model: RunningModel, side: Side, found: FoundSet, seed: int, progress: Progress = SILENT
) -> Iterator[NoiseDose]:
    """Noise of every size of the method on the set, and on its controls."""
    own, beside = (
        [noise.noisy(model, spots, each) for each in range(seed, seed + noise.DRAWS)]
        for spots in (found.vectors, found.beside)
    )
    for done, size in enumerate(noise.DOSES):
        progress.step("Adding noise to the set", done, len(noise.DOSES))
        yield NoiseDose(size, side.dosed(own, size), side.dosed(beside, size))


def holding(bridge: Any, tokenizer: Any, side: Side, spots: Sequence[Spot], texts: Sequence[str]) -> dict[str, Effect]:
    """Effect of holding the coefficients of ``spots`` at zero, and at their mean over ``texts``."""
    examples = [*side.target.examples, *side.unrelated.examples]
    before = answer_logprobs_with(bridge, tokenizer, examples, {})
    states = {"zero": held_at(spots), "mean": mean_coefficients(bridge, tokenizer, texts, spots)}
    return {
        name: side.of(before - answer_logprobs_with(bridge, tokenizer, examples, held)) for name, held in states.items()
    }


def search(
    model: RunningModel,
    bench: Bench,
    vectors: Sequence[ConceptVector],
    controls: Controls,
    collateral: float = COLLATERAL,
    progress: Progress = SILENT,
) -> FoundSet | None:
    """The set with the largest effect on the choosing side among those within the limit there."""
    coherent = {(vector.layer, vector.neuron): vector.sign for vector in vectors}
    tried: list[tuple[Effect, tuple[Spot, ...]]] = []
    for order in candidate_orders(model, bench, coherent, progress):
        for size in [size for size in SIZES if size <= len(order)]:
            progress.step(f"Trying sets of {size} vectors")
            effect = bench.choosing.without(order[:size])
            if effect.collateral > 2 * collateral:
                break  # more of the same order only does more harm
            if effect.collateral <= collateral:
                tried.append((effect, tuple(order[:size])))
    if not tried:
        return None
    choosing, chosen = max(tried, key=lambda pair: pair[0].specificity)
    beside = tuple(Spot(*place) for place in controls(chosen))
    return FoundSet(
        vectors=chosen,
        coherent=tuple((spot.layer, spot.neuron) in coherent for spot in chosen),
        beside=beside,
        choosing=choosing,
        held_out=bench.reporting.without(chosen),
        control=bench.reporting.without(beside),
        before=bench.before,
        floor=bench.floor,
    )


def candidate_orders(
    model: RunningModel, bench: Bench, coherent: Mapping[tuple[int, int], int], progress: Progress
) -> Iterator[list[Spot]]:
    """Candidates from the most promising on: coherent ones alone, then any neuron, by ever better estimates.

    RelP looks at every neuron, integrated gradients at the layers where it found most, and the best of both are ablated
    one by one.
    """
    questions = bench.questions

    def spots(places: Iterable[tuple[int, int]]) -> list[Spot]:
        return [Spot(layer, neuron, coherent.get((layer, neuron), 1)) for layer, neuron in places]

    on_target = relp(model, questions.choose.examples, progress)
    on_unrelated = relp(model, questions.unrelated_choose.examples, progress).abs()
    if coherent:
        specific = on_target - on_unrelated
        yield spots(sorted(coherent, key=lambda place: -float(specific[place])))
    by_relp = {reserve: _best(on_target - reserve * on_unrelated, BEST) for reserve in RESERVE}
    for reserve in RESERVE:
        yield spots(by_relp[reserve][: max(SIZES)])

    middle = RESERVE[len(RESERVE) // 2]
    counts = np.bincount([layer for layer, _ in by_relp[middle]], minlength=len(on_target))
    layers = np.argsort(-counts, kind="stable")[: math.ceil(REFINED * len(counts))].tolist()
    few = questions.unrelated_choose.examples[:CONTROL_QUESTIONS]
    on_target = integrated_gradients(model, questions.choose.examples, layers, progress=progress)
    on_unrelated = integrated_gradients(model, few, layers, progress=progress).abs()
    refined = {reserve: _best(on_target - reserve * on_unrelated, max(SIZES)) for reserve in RESERVE}
    for reserve in RESERVE:
        yield spots(refined[reserve])

    pool = list(dict.fromkeys([*by_relp[middle][:EXACT], *refined[middle][:EXACT], *coherent]))[: 2 * EXACT]
    exact = {}
    for done, spot in enumerate(spots(pool)):
        progress.step("Ablating candidates one by one", done, len(pool))
        exact[spot] = bench.choosing.without([spot])
    for reserve in RESERVE[:-1]:
        yield sorted(exact, key=lambda spot: reserve * max(exact[spot].collateral, 0.0) - exact[spot].on_target)


def _best(scores: Attribution, count: int) -> list[tuple[int, int]]:
    """(layer, neuron) of the largest scores, best first; what was not estimated (NaN) comes last."""
    known = torch.nan_to_num(scores, nan=-torch.inf).flatten()
    best = known.topk(min(count, known.numel())).indices.tolist()
    return [divmod(flat, scores.shape[1]) for flat in best]
