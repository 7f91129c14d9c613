"""The records of a topic's facts for the result: each fact, each condition, and the residual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from audit.knowledge.knowledge import UNLEARNED, Knowledge
from audit.knowledge.residual import Left
from audit.result import ConditionRecord, FactReading, FactRecord, ModelReading, Residual
from audit.statistics import bootstrap_interval
from audit.thresholds import CALIBRATED, MARGIN


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


def condition_records(knowledge: Knowledge, titles: Mapping[str, str]) -> list[ConditionRecord]:
    """Every condition, in the order in which the unlearned model was read; ``titles``: attack -> its title."""
    return list(_conditions(knowledge, titles))


def _conditions(knowledge: Knowledge, titles: Mapping[str, str]) -> Iterator[ConditionRecord]:
    for name, readings in knowledge.models[UNLEARNED].items():
        attack = readings.condition.attack
        test = knowledge.tests.get(name)
        corrected = knowledge.omnibus.corrected.get(name) if knowledge.omnibus is not None else None
        yield ConditionRecord(
            condition=name,
            attack=attack,
            title="As it is" if attack is None else titles.get(attack, attack),
            dose=readings.condition.dose,
            models=[_model(knowledge, role, name) for role, models in knowledge.models.items() if name in models],
            nats=None if test is None else float(test.value[0]),
            z=None if test is None else float(test.z[0]),
            p_value=None if corrected is None else float(corrected[0]),
        )


def _model(knowledge: Knowledge, role: str, condition: str) -> ModelReading:
    says, excess = knowledge.says(role, condition), knowledge.excess(role, condition)
    asked, read = says[~np.isnan(says)], excess[~np.isnan(excess)]
    return ModelReading(
        model=role,
        says=float(asked.mean()) if len(asked) else None,
        readable=float(read.mean()) if len(read) else None,
        readable_interval=bootstrap_interval(read, seed=knowledge.seed),
        n=max(len(asked), len(read)),
    )


def residual_record(left: Left, p_value: float | None, test: str) -> Residual:
    """What is left, for the result."""
    return Residual(
        value=left.most.value,
        interval=left.most.interval,
        condition=left.most.condition,
        place=str(left.most.place),
        n=left.most.n,
        p_value=p_value,
        test=test,
        least_detectable=left.least_detectable,
        margin=MARGIN.value,
        twin=left.twin.value if left.twin is not None else None,
        calibrated=CALIBRATED,
    )


def _flag(value: float) -> bool | None:
    return None if np.isnan(value) else bool(value)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
