"""The records of a topic's facts for the result: each fact, each condition, and the residual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audit.calibration import calibration
from audit.knowledge.beliefs import belief_p_value
from audit.knowledge.knowledge import BASE, UNLEARNED, Knowledge
from audit.knowledge.residual import Left, Paired, Share, left_of, paired
from audit.result import ConditionRecord, FactReading, FactRecord, Known, ModelReading, Number, Recovery, Residual
from audit.result import Share as ShareRecord
from audit.statistics import bootstrap_interval, share_interval
from audit.thresholds import FEWEST_FACTS, FEWEST_SUBJECTS, LEAST_TAUGHT, MARGIN, SIGNIFICANT


@dataclass(frozen=True)
class Summary:
    """What the rules of the verdict read, as it is recorded in the result."""

    known: Known
    conditions: Sequence[ConditionRecord]
    residual: Residual | None
    facts: Sequence[FactRecord] = ()
    recovery: Sequence[Recovery] = ()


def summarise(knowledge: Knowledge, titles: Mapping[str, str]) -> Summary:
    """The records of ``knowledge``; ``titles``: attack -> its title."""
    compared = _compared(knowledge)
    left = left_of(knowledge) if knowledge.n else None
    conditions = list(_conditions(knowledge, titles, compared))
    return Summary(
        known=_known(knowledge, compared),
        conditions=conditions,
        residual=_residual(left, knowledge) if left is not None else None,
        facts=fact_records(knowledge),
        recovery=recoveries(conditions),
    )


def recoveries(conditions: Sequence[ConditionRecord]) -> list[Recovery]:
    """What every arm of every attack that trains brings back in each model; 0 steps are the model as it is."""
    plain = [row for row in conditions if row.attack is None]
    trained = [row for row in conditions if row.attack is not None and row.steps is not None]
    base = next((each.readable for row in plain if (each := row.of(BASE)) is not None), None)
    found = []
    for attack, arm in dict.fromkeys((row.attack, row.arm) for row in trained):
        rows = [row for row in trained if (row.attack, row.arm) == (attack, arm)]
        for model in dict.fromkeys(each.model for row in rows for each in row.models):
            read = {row.steps or 0: each for row in (*plain, *rows) if (each := row.of(model)) is not None}
            found.append(_recovery(attack or "", arm, model, read, base))
    return found


def _recovery(attack: str, arm: str, model: str, read: Mapping[int, ModelReading], base: Number) -> Recovery:
    values = {steps: each.readable for steps, each in sorted(read.items()) if each.readable is not None}
    losses = [each.trained_loss for each in read.values() if each.trained_loss is not None]
    fall = max((1 - after / before for before, after in losses if before > 0), default=None)
    peak = max(values, key=lambda steps: values[steps], default=None)
    half = None if base is None or base <= 0 else next((at for at, value in values.items() if value >= base / 2), None)
    return Recovery(
        attack=attack,
        arm=arm,
        model=model,
        peak=None if peak is None else values[peak],
        peak_steps=peak,
        steps_to_half=half,
        taught=fall,
        taught_nothing=fall is not None and fall < LEAST_TAUGHT.value,
    )


def fact_records(knowledge: Knowledge) -> list[FactRecord]:
    """Each fact with what every model did with it under every condition."""
    ranks = {
        (role, name): readings.ranks() for role, models in knowledge.models.items() for name, readings in models.items()
    }
    return [
        FactRecord(
            question=knowledge.facts.questions[place],
            answer=knowledge.facts.answers[place],
            type=knowledge.facts.types[place],
            subject=knowledge.facts.subjects[place],
            known=bool(knowledge.known[place]),
            readings=[
                FactReading(
                    model=role,
                    condition=name,
                    says=_flag(knowledge.models[role][name].says[place]),
                    rank=_number(rank[place]),
                )
                for (role, name), rank in ranks.items()
            ],
        )
        for place in range(len(knowledge.facts.ids))
    ]


def _conditions(knowledge: Knowledge, titles: Mapping[str, str], compared: Paired | None) -> Iterator[ConditionRecord]:
    """Every condition, in the order in which the unlearned model was read."""
    preferred, avoided = (_standing_out(knowledge, compared, sign) for sign in (1, -1))
    for name, readings in knowledge.models[UNLEARNED].items():
        attack = readings.condition.attack
        test = knowledge.tests.get(name)
        corrected = knowledge.omnibus.corrected.get(name) if knowledge.omnibus is not None else None
        yield ConditionRecord(
            condition=name,
            attack=attack,
            title="As it is" if attack is None else titles.get(attack, attack),
            dose=readings.condition.dose,
            arm=readings.condition.arm,
            steps=readings.condition.steps,
            models=[_model(knowledge, role, name) for role, models in knowledge.models.items() if name in models],
            nats=None if test is None else float(test.value[0]),
            z=None if test is None else float(test.z[0]),
            p_value=None if corrected is None else float(corrected[0]),
            preferred=name in preferred,
            avoided=name in avoided,
        )


def _model(knowledge: Knowledge, role: str, condition: str) -> ModelReading:
    says, excess = knowledge.says(role, condition), knowledge.excess(role, condition)
    asked, read = says[~np.isnan(says)], excess[~np.isnan(excess)]
    return ModelReading(
        model=role,
        says=float(asked.mean()) if len(asked) else None,
        said=int(asked.sum()),
        asked=len(asked),
        says_interval=share_interval(asked) if len(asked) else None,
        readable=float(read.mean()) if len(read) else None,
        readable_interval=bootstrap_interval(read, seed=knowledge.seed),
        n=max(len(asked), len(read)),
        trained_loss=knowledge.models[role][condition].trained_loss,
    )


def _record(share: Share) -> ShareRecord:
    return ShareRecord(
        condition=share.condition, place=str(share.place), value=share.value, interval=share.interval, n=share.n
    )


def _residual(left: Left, knowledge: Knowledge) -> Residual:
    return Residual(
        **_record(left.most).model_dump(exclude={"p_value"}),
        inverted=_record(left.inverted),
        shares=[_record(share) for share in left.shares],
        without_null=[
            _record(share).model_copy(update={"p_value": _compared_p_value(paired(knowledge, share.condition))})
            for share in left.without_null
        ],
        least_detectable=left.least_detectable,
        margin=MARGIN.value,
        twin=left.twin.value if left.twin is not None else None,
        calibrated=bool(calibration().fitted),
    )


def _known(knowledge: Knowledge, compared: Paired | None) -> Known:
    p_value, test = _test(knowledge, compared)
    conditions = (readings.condition for readings in knowledge.models[UNLEARNED].values())
    strongest: dict[str, Any] = {}
    if knowledge.omnibus is not None:
        name, place = knowledge.omnibus.best
        where = knowledge.models[UNLEARNED][name].places[place]
        strongest = {"strongest": f"{name}, {where}", "z": knowledge.omnibus.z, "n": knowledge.tests[name].n}
    return Known(
        facts=len(knowledge.facts.ids),
        known=knowledge.n,
        guessed=knowledge.guessed,
        guess=knowledge.guess,
        guessable=knowledge.guessable,
        contradicted=knowledge.contradicted,
        reference=knowledge.has_reference,
        forms=knowledge.forms,
        attacks=sorted({condition.attack for condition in conditions if condition.attack is not None}),
        p_value=p_value,
        test=test,
        beliefs=belief_p_value(knowledge) if knowledge.n and knowledge.guessable else None,
        **strongest,
    )


def _test(knowledge: Knowledge, compared: Paired | None) -> tuple[float | None, str]:
    """The p-value that decides, and the test's name."""
    if knowledge.guessable:
        p_value = _compared_p_value(compared)
        if compared is None or p_value is None:
            return None, ""
        where = f"most at {compared.place}"
        return p_value, f"more than the reference after the same relearning, signs of subjects flipped, {where}"
    if knowledge.omnibus is None or knowledge.n_exchanged < FEWEST_FACTS:
        return None, ""
    return knowledge.omnibus.p_value, "answers of one type exchanged, over all conditions and places"


def _compared_p_value(compared: Paired | None) -> float | None:
    """``None`` if there are too few subjects to reach the level."""
    return None if compared is None or compared.n < FEWEST_SUBJECTS else compared.p_value


def _compared(knowledge: Knowledge) -> Paired | None:
    """Unlearned against reference after the same relearning of the other half, at the most steps."""
    if not knowledge.has_reference:
        return None
    return paired(knowledge, knowledge.relearned) if knowledge.relearned is not None else None


def _standing_out(knowledge: Knowledge, compared: Paired | None, sign: int) -> set[str]:
    """The conditions that prefer (``sign`` 1) or avoid (-1) the true answers at the level of the test that decides."""
    if knowledge.guessable:  # the test is one-sided, at the place where the unlearned model is most above
        above = sign > 0 or (compared is not None and compared.difference < 0)
        return {compared.condition} if compared is not None and above else set()
    test = knowledge.omnibus
    if test is None:
        return set()
    return {
        name
        for name, places in test.corrected.items()
        if ((places < SIGNIFICANT.value) & (sign * knowledge.tests[name].z > 0)).any()
    }


def _flag(value: float) -> bool | None:
    return None if np.isnan(value) else bool(value)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
