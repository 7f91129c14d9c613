"""The document of ``audit find``: a concept's value vectors in one model, and the effect of ablating them.

An effect is the decrease of an answer's log-probability in nats per answer token, averaged over questions.
"""

from __future__ import annotations

from audit.result.measurement import Interval, Number, Record


class Estimate(Record):
    """A mean over questions and its interval, which is ``None`` where it is undefined."""

    value: Number
    interval: Interval | None = None


class EffectRecord(Record):
    """The effect of an edit on answers about the concept (``target``) and on unrelated answers.

    Attributes:
        specificity: target - unrelated.
        ratio: target / unrelated, the latter bounded from below.
        questions: kind -> number of questions.
        unit: unit of all fields but ``ratio``.
    """

    target: Estimate
    unrelated: Estimate
    specificity: Estimate
    ratio: Estimate
    questions: dict[str, int]
    unit: str


class ControlledEffectRecord(EffectRecord):
    """The effect of an edit, and of the same edit of control vectors (same layers, nearest norms)."""

    control: EffectRecord


class VectorEffectRecord(ControlledEffectRecord):
    """The effect of zeroing one vector.

    Attributes:
        p_value, q_value: of the concept's answers falling more than unrelated ones, and more than with the control
            vector; the same after Benjamini-Hochberg over the vectors that were tried. ``None`` for too few questions.
        carries: whether the q-value is below 0.05 and the effect more specific than the control's.
    """

    p_value: Number = None
    q_value: Number = None
    carries: bool


class DoseRecord(ControlledEffectRecord):
    """The effect of noise whose norm is ``size`` times that of the vector it is added to."""

    size: float


class VectorRecord(Record):
    """One value vector that writes the concept.

    Attributes:
        sign: 1 or -1, the direction along which it writes the concept's tokens.
        p_value, q_value: permutation p-value of the score; the same after Benjamini-Hochberg over all screened vectors.
        tokens: most promoted tokens in that direction.
        effect: effect of zeroing the vector; ``None`` if it was not ablated.
    """

    layer: int
    neuron: int
    sign: int
    score: Number
    p_value: Number
    q_value: Number
    tokens: list[str]
    effect: VectorEffectRecord | None = None


class SetMember(Record):
    """One vector of the set.

    Attributes:
        coherent: whether the tokens it promotes are the concept's.
        core: whether it is among the fewest that have nine tenths of the set's specificity.
    """

    layer: int
    neuron: int
    coherent: bool
    core: bool = False


class VectorSetRecord(Record):
    """The set with the largest effect within the collateral limit, chosen on one half of the questions.

    Attributes:
        specific: whether its effect on the held-out half is significant, large and specific to the concept.
        p_value: of the concept's answers falling more than unrelated ones, and more than with the control vectors;
            ``None`` for too few questions.
        excess: specificity minus that of the control vectors.
        choosing, held_out: its effect on each half of the questions.
        control: effect of as many control vectors on the held-out half.
        log_probability_before, log_probability_floor: log-probability of the held-out answers in nats per token, after
            their own questions and after unrelated questions.
        share_of_the_way_to_the_floor: decrease of the log-probability relative to the distance between these two;
            ``None`` if the answers start at the floor.
    """

    vectors: list[SetMember]
    specific: bool
    p_value: Number = None
    excess: Number = None
    held_out: EffectRecord
    control: EffectRecord
    choosing: EffectRecord
    log_probability_before: Number
    log_probability_floor: Number
    share_of_the_way_to_the_floor: Number


class ValidationQuestions(Record):
    choosing: int
    held_out: int
    unrelated_choosing: int
    unrelated_held_out: int
    not_known_by_the_model: list[str]


class ValidationRecord(Record):
    """The results of ablation.

    Attributes:
        set: ``None`` if no set stays within ``collateral_limit``.
        noise: the set's dose curve, smallest dose first.
        coefficients_held: effect of the set with its coefficients held at ``"zero"`` and at their ``"mean"``; empty if
            not requested.
        held_at_zero_differs_from_zeroed_by: largest difference of an answer between two implementations of one edit.
        written_answers: decrease of ``"bleu"`` and ``"rouge_l"`` of generated answers; empty if not requested.
    """

    set: VectorSetRecord | None
    noise: list[DoseRecord]
    coefficients_held: dict[str, EffectRecord]
    held_at_zero_differs_from_zeroed_by: Number
    written_answers: dict[str, ControlledEffectRecord]
    collateral_limit: float
    questions: ValidationQuestions


class VectorSearch(Record):
    """The whole document of ``audit find``.

    Attributes:
        words, words_of_several_tokens: the concept's words that the search used; the words it could not use because the
            tokenizer splits them.
        projection: how value vectors were projected into vocabulary space.
        screened: number of value vectors that were scored.
        vectors: vectors that write the concept, highest score first.
        effect: effect of ablating them, or the reason why it was not measured.
    """

    concept: str
    title: str
    words: list[str]
    words_of_several_tokens: list[str]
    projection: str
    screened: int
    vectors: list[VectorRecord]
    effect: ValidationRecord | str
