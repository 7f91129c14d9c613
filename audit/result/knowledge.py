"""What is known of a topic's facts: by fact and condition, and how much is left."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from audit.result.measurement import Interval, Number, Record

Kind = Literal["readable", "brought back", "inverted"]
"""How hidden knowledge shows: as the model is, only under an attack, or as the truth being avoided."""


class FactReading(Record):
    """One fact in one model under one condition.

    Attributes:
        says: whether the written answer is right; ``None`` if the fact was not asked.
        rank: rank of the true answer among those of its type, 0 for the best and 1 for the last.
    """

    model: str
    condition: str
    says: bool | None = None
    rank: Number = None


class FactRecord(Record):
    """One fact: its question, its answer, and what each model did with it.

    Attributes:
        known: whether the base says it; only such facts count.
    """

    question: str
    answer: str
    type: str | None
    subject: str
    known: bool
    readings: list[FactReading] = Field(default_factory=list)


class ModelReading(Record):
    """One model's known facts under one condition.

    Attributes:
        says: share of the known facts that it says.
        said, asked: the numbers of facts behind it.
        says_interval: 95 % (Wilson).
        readable: 1 for a model that ranks every true answer first among those of its type, 0 for one that cannot tell
            them apart, negative if it avoids the truth.
        trained_loss: of an attack that trains: loss of the answers in the first batch and in the last one, in nats per
            token.
    """

    model: str
    says: Number = None
    said: int = 0
    asked: int = 0
    says_interval: Interval | None = None
    readable: Number = None
    readable_interval: Interval | None = None
    n: int = 0
    trained_loss: tuple[float, float] | None = None


class ConditionRecord(Record):
    """All models under one condition, and the exchange test of the unlearned one.

    Attributes:
        attack: file name of the attack; ``None`` for the unmodified models.
        arm, steps: of an attack that trains: what it trains on, and for how many steps; ``None`` for other attacks.
        nats: mean centred score of the true answers.
        z: of ``nats`` under exchanged answers.
        p_value: two-sided, corrected for all conditions and places.
        preferred: whether the true answers are preferred, at some place, at the level of the test that decides.
        avoided: whether they are avoided there.
    """

    condition: str
    attack: str | None
    title: str
    dose: str
    arm: str = ""
    steps: int | None = None
    models: list[ModelReading] = Field(default_factory=list)
    nats: Number = None
    z: Number = None
    p_value: Number = None
    preferred: bool = False
    avoided: bool = False

    def of(self, model: str) -> ModelReading | None:
        """The reading of one model; ``None`` if it was not read."""
        return next((reading for reading in self.models if reading.model == model), None)


class Recovery(Record):
    """What training brings back in one model, over its steps.

    Attributes:
        attack, arm: file name of the attack, and what it trains on.
        peak: highest ``readable`` of the steps; ``None`` if nothing could be read.
        peak_steps: steps after which it is reached; 0 for the model as it is.
        steps_to_half: the first number of steps after which half of what the base shows as it is can be read; ``None``
            if it is not reached, or the base shows nothing.
        taught: share of the loss of the trained answers themselves that went, at most; ``None`` if unknown.
        taught_nothing: whether that is too little for the attack to say anything.
    """

    attack: str
    arm: str
    model: str
    peak: Number = None
    peak_steps: int | None = None
    steps_to_half: int | None = None
    taught: Number = None
    taught_nothing: bool = False


class Known(Record):
    """Which facts count, and the test that decides.

    Attributes:
        facts: number of facts.
        known: those that the base says, less ``guessed``; only they count.
        guessed: those that are left out because answers may be guessed and the reference says them too.
        guess: share of the known facts that a model without the knowledge says.
        guessable: whether answers may be guessed from their questions, as far as is known.
        contradicted: whether they are taken as such although the concept says that they cannot be: the reference tells
            them apart.
        reference: whether there is a reference.
        forms: conditions that are forms in which the models are used, the deployed one first.
        attacks: those under which the unlearned model was read.
        p_value: of the test that decides: the exchange test, or the comparison with the reference; ``None`` if neither
            could run.
        test: that test in words.
        beliefs: p-value of true answers being preferred by more than a model that guesses as the reference does; it
            explains a preference or leaves it open, and decides nothing. Only where answers may be guessed.
        strongest: condition and place of the largest ``|z|`` of the exchange test, in words; empty if it could not run.
        z, n: there.
    """

    facts: int
    known: int
    guessed: int = 0
    guess: float = 0.0
    guessable: bool = False
    contradicted: bool = False
    reference: bool = False
    forms: list[str] = Field(default_factory=list)
    attacks: list[str] = Field(default_factory=list)
    p_value: Number = None
    test: str = ""
    beliefs: Number = None
    strongest: str = ""
    z: Number = None
    n: int = 0

    @property
    def is_relative(self) -> bool:
        """Whether the reference is the zero of the residual; else a model that cannot tell answers apart is."""
        return self.guessable and self.reference


class Share(Record):
    """A residual under one condition, read at one place.

    Attributes:
        value: 0 for a model that never knew (for the reference where answers may be guessed), 1 for the base; negative
            if the truth is avoided.
        interval: 90 %, by bootstrap over subjects.
        n: facts.
        p_value: under attacks that bring in something of the base: of the comparison with the reference, signs of
            subjects flipped; ``None`` without a reference or with too few subjects.
    """

    condition: str
    place: str
    value: Number = None
    interval: Interval | None = None
    n: int = 0
    p_value: Number = None


class Residual(Record):
    """The share of the base's knowledge that is left.

    Attributes:
        value, interval, condition, place, n: of the condition that shows most, as in ``Share``; chosen on one half of
            the facts and read on the other.
        inverted: the same for the condition that avoids the truth most; conditions of attacks that train on facts are
            left out.
        shares: at the output under every condition.
        without_null: under attacks that bring in something of the base, with the reference (if there is one) as zero;
            also a model that never knew shows something there.
        least_detectable: the smallest share that would have been seen with probability 0.8.
        margin: the share below which knowledge counts as removed.
        twin: the share read from the base after refusal training; ``None`` if there is no twin.
        calibrated: whether the margin was fitted on models whose truth is known.
    """

    value: Number = None
    interval: Interval | None = None
    condition: str = ""
    place: str = ""
    n: int = 0
    inverted: Share | None = None
    shares: list[Share] = Field(default_factory=list)
    without_null: list[Share] = Field(default_factory=list)
    least_detectable: Number = None
    margin: float = 0.0
    twin: Number = None
    calibrated: bool = False

    @property
    def most(self) -> Share:
        return Share(condition=self.condition, place=self.place, value=self.value, interval=self.interval, n=self.n)
