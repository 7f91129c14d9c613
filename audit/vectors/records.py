"""What was measured of a concept's vectors in one model, and its form in the document of ``audit find``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from audit.result import (
    DoseRecord,
    SetMember,
    ValidationQuestions,
    ValidationRecord,
    VectorEffectRecord,
    VectorRecord,
    VectorSearch,
    VectorSetRecord,
)
from audit.vectors.effects import ControlledEffect, Effect
from concepts.concept import Concept
from concepts.discovery import FALSE_DISCOVERY_RATE, ConceptVector
from concepts.neuron import Neuron
from concepts.tokens import ConceptTokens

NOT_VALIDATED: Final = "not measured: no vector was ablated, so whether it carries the concept causally is open"
SPECIFIC: Final = 5.0
"""The answers of a concept fall at least this many times as far as unrelated ones if a set carries it."""
SMALLEST_EXCESS: Final = 0.05
"""Nats per answer token by which a set that carries a concept is more specific than its control vectors."""
SIGNIFICANCE: Final = 0.05
"""Level of the test of a set; that of vectors, after Benjamini-Hochberg, is ``FALSE_DISCOVERY_RATE``."""


@dataclass(frozen=True)
class VectorEffect:
    """The effect of zeroing one value vector.

    Attributes:
        q_value: the p-value of the effect after Benjamini-Hochberg over all vectors that were tried; ``None`` for too
            few questions.
    """

    vector: ConceptVector
    zeroed: ControlledEffect
    q_value: float | None

    @property
    def carries(self) -> bool:
        """Whether the vector carries the concept: a significant effect, more specific than that of its control."""
        return self.q_value is not None and self.q_value < FALSE_DISCOVERY_RATE and self.zeroed.excess > 0

    def record(self) -> VectorEffectRecord:
        return VectorEffectRecord(
            **dict(self.zeroed.record()), p_value=self.zeroed.p_value, q_value=self.q_value, carries=self.carries
        )


def corrected(effects: Sequence[tuple[ConceptVector, ControlledEffect]]) -> tuple[VectorEffect, ...]:
    """The effects of all vectors that were tried, with their q-values."""
    from scipy.stats import false_discovery_control  # slow to import

    p_values = [effect.p_value for _, effect in effects]
    known = [p_value for p_value in p_values if p_value is not None]
    q_values = iter(false_discovery_control(known).tolist() if known else [])
    return tuple(
        VectorEffect(vector, effect, None if p_value is None else next(q_values))
        for (vector, effect), p_value in zip(effects, p_values, strict=True)
    )


@dataclass(frozen=True)
class CausalSet:
    """The set of neurons with the largest effect within the collateral limit, on the choosing split.

    Attributes:
        coherent: which of ``neurons`` write the concept's words.
        controls: as many neurons of the same layers and nearest norms.
        choosing: the effect by which the set was chosen.
        held_out: the effect on the held-out questions, which were not used for the choice.
        control: the effect of ``controls`` on the held-out questions.
        before, floor: see ``question_split.QuestionSplits``.
    """

    neurons: tuple[Neuron, ...]
    coherent: tuple[bool, ...]
    controls: tuple[Neuron, ...]
    choosing: Effect
    held_out: Effect
    control: Effect
    before: float
    floor: float

    @property
    def controlled(self) -> ControlledEffect:
        return ControlledEffect(self.held_out, self.control)

    @property
    def is_specific(self) -> bool:
        """Whether the set carries the concept.

        Its effect is significant, at least ``SPECIFIC`` times that on unrelated answers, and by ``SMALLEST_EXCESS``
        more specific than that of the control vectors.
        """
        p_value = self.controlled.p_value
        is_large = self.held_out.ratio >= SPECIFIC and self.controlled.excess >= SMALLEST_EXCESS
        return is_large and p_value is not None and p_value < SIGNIFICANCE

    @property
    def share_of_the_way(self) -> float | None:
        """Fall of the held-out answers over the distance to the floor; ``None`` if they are at the floor already."""
        distance = self.before - self.floor
        return self.held_out.on_target / distance if distance > 0 else None

    def record(self, core: Collection[Neuron]) -> VectorSetRecord:
        return VectorSetRecord(
            vectors=[
                SetMember(layer=place.layer, neuron=place.neuron, coherent=coherent, core=place in core)
                for place, coherent in zip(self.neurons, self.coherent, strict=True)
            ],
            specific=self.is_specific,
            p_value=self.controlled.p_value,
            excess=self.controlled.excess,
            held_out=self.held_out.record(),
            control=self.control.record(),
            choosing=self.choosing.record(),
            log_probability_before=self.before,
            log_probability_floor=self.floor,
            share_of_the_way_to_the_floor=self.share_of_the_way,
        )


@dataclass(frozen=True)
class NoiseDose:
    """The effect of noise on the set; means over draws.

    Attributes:
        size: norm of the noise over the norm of the vector.
    """

    size: float
    noised: ControlledEffect

    def record(self) -> DoseRecord:
        return DoseRecord(size=self.size, **dict(self.noised.record()))


@dataclass(frozen=True)
class QuestionCounts:
    """Questions in each split, and the concept's questions that the model does not answer."""

    choosing: int
    held_out: int
    unrelated_choosing: int
    unrelated_held_out: int
    unanswered: tuple[str, ...]

    def record(self) -> ValidationQuestions:
        return ValidationQuestions(
            choosing=self.choosing,
            held_out=self.held_out,
            unrelated_choosing=self.unrelated_choosing,
            unrelated_held_out=self.unrelated_held_out,
            not_known_by_the_model=list(self.unanswered),
        )


@dataclass(frozen=True)
class Validation:
    """What ablation shows about a concept's vectors in one model.

    Attributes:
        causal_set: ``None`` if no set stays within the collateral limit.
        core: the fewest of its neurons with nine tenths of its specificity on the choosing split.
        collateral: the limit, in nats per answer token.
        noise: the set's dose curve, smallest noise first.
        held: effect of holding the set's coefficients at ``"zero"``, and at their ``"mean"`` over the concept's text
            and neutral text; empty if not requested.
        written: fall of BLEU and ROUGE-L of the held-out answers that the model writes without the set
            (``audit.vectors.written_answers``); empty if not requested.
    """

    vectors: tuple[VectorEffect, ...]
    causal_set: CausalSet | None
    questions: QuestionCounts
    collateral: float
    core: tuple[Neuron, ...] = ()
    noise: tuple[NoiseDose, ...] = ()
    held: Mapping[str, Effect] = field(default_factory=dict)
    written: Mapping[str, ControlledEffect] = field(default_factory=dict)

    @property
    def disagreement(self) -> float | None:
        """Largest difference in an answer's fall between zeroed vectors and coefficients held at zero, nats per token.

        Both are the same edit, so a difference beyond rounding is an error in one of the two.
        """
        if self.causal_set is None or "zero" not in self.held:
            return None
        zeroed, held = self.causal_set.held_out, self.held["zero"]
        pairs = ((zeroed.target, held.target), (zeroed.unrelated, held.unrelated))
        return max(float(np.abs(one - other).max()) for one, other in pairs)

    def record(self) -> ValidationRecord:
        return ValidationRecord(
            set=None if self.causal_set is None else self.causal_set.record(self.core),
            noise=[each.record() for each in self.noise],
            coefficients_held={name: effect.record() for name, effect in self.held.items()},
            held_at_zero_differs_from_zeroed_by=self.disagreement,
            written_answers={name: effect.record() for name, effect in self.written.items()},
            collateral_limit=self.collateral,
            questions=self.questions.record(),
        )


@dataclass(frozen=True)
class SearchResult:
    """A concept's vectors in one model, best first, and the tokens by which they were searched.

    Attributes:
        projection: whether the final norm's scale was folded into the head.
        screened: number of value vectors that were screened.
        candidates: every neuron on the shortlist, listed in ``vectors`` or not.
        validation: the effects of ablation, where requested.
    """

    concept: Concept
    vectors: tuple[ConceptVector, ...]
    tokens: ConceptTokens
    projection: str
    screened: int
    candidates: frozenset[Neuron]
    validation: Validation | None = None

    def effects(self) -> dict[Neuron, VectorEffect]:
        """The effect of each vector that was ablated alone."""
        return {} if self.validation is None else {row.vector.place: row for row in self.validation.vectors}

    def record(self) -> VectorSearch:
        effects = self.effects()
        return VectorSearch(
            concept=self.concept.name,
            title=self.concept.title,
            words=list(self.tokens.words),
            words_of_several_tokens=list(self.tokens.skipped),
            projection=self.projection,
            screened=self.screened,
            vectors=[_vector_record(vector, effects.get(vector.place)) for vector in self.vectors],
            effect=NOT_VALIDATED if self.validation is None else self.validation.record(),
        )


def _vector_record(vector: ConceptVector, effect: VectorEffect | None) -> VectorRecord:
    return VectorRecord(
        layer=vector.place.layer,
        neuron=vector.place.neuron,
        sign=vector.place.sign,
        score=vector.score,
        p_value=vector.p_value,
        q_value=vector.q_value,
        tokens=list(vector.tokens),
        effect=None if effect is None else effect.record(),
    )
