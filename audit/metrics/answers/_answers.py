"""Shared code of the metrics of scored answers: one score per item, averaged over questions, for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Control, Direction, Interval, Measured, not_measured
from audit.statistics import bootstrap_interval

Score = Callable[[Float[np.ndarray, " n_tokens"], Bool[np.ndarray, " n_tokens"]], float]
"""Log-probabilities and hits of one answer's tokens -> the answer's score."""

OWN_ANSWERS: Mapping[str, str] = {"target": "target_own", "unrelated": "unrelated_own"}
"""Kind of question -> the kind that scores the base's own greedy answers to the same questions, where it exists."""
UNRELATED_QUESTIONS: Final = "unrelated questions"
NO_ITEMS: Mapping[str, str] = {
    "target": "no questions about the concept were given",
    "unrelated": "no unrelated questions were given",
    "neighbour": "none of the neighbouring questions has an answer to score",
}


@dataclass(frozen=True)
class Mean:
    """Scores of the same items in one model, and their mean with its bootstrap interval."""

    scores: Float[np.ndarray, " n"]
    value: float | None
    interval: Interval | None


def mean_of(scores: Sequence[float] | Float[np.ndarray, " n"], seed: int) -> Mean:
    """Mean and interval of ``scores``; both ``None`` for no items."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        return Mean(values, None, None)
    return Mean(values, float(values.mean()), bootstrap_interval(values, seed=seed))


def measure_answers(
    evidence: Evidence,
    score: Score,
    *,
    unit: str,
    direction: Direction,
    kind: str = "target",
    control: str | None = "unrelated",
    details: Mapping[str, Any] | None = None,
) -> Measured:
    """``score`` averaged over the questions of ``kind`` in each model, with the kind ``control`` as the control.

    Given answers are scored; where the concept gives none, the base's own greedy answers are scored instead, and
    ``details["answers"]`` says so. For the kinds in ``OWN_ANSWERS`` the scores of the base's own answers are also in
    ``details["own_answers"]`` and, by item, in ``items``.
    """
    readings, seed = evidence.readings, evidence.seed
    base = readings["base"]
    own_kind = OWN_ANSWERS.get(kind)
    scored_kind = kind if own_kind is None or base.of(kind) else own_kind
    means = _means(readings, scored_kind, score, seed)
    unlearned = means["unlearned"]
    if unlearned.value is None:
        return not_measured(reason_nothing_scored(base, kind, NO_ITEMS[kind]))
    own = _means(readings, own_kind, score, seed) if own_kind else {}
    controls = control_means(readings, control, score, seed) if control else {}
    scored = [base.items[index] for index in base.of(scored_kind)]
    return Measured(
        value=unlearned.value,
        interval=unlearned.interval,
        base=means["base"].value,
        base_interval=means["base"].interval,
        retained=means["retained"].value if "retained" in means else None,
        unit=unit,
        direction=direction,
        n=len(scored),
        control=as_control(controls),
        items=_rows(base, scored_kind, means, own_kind, own),
        details={
            "answers": "given" if scored_kind == kind else "the base's own",
            **({"own_answers": _summary(own)} if own else {}),
            "one_token_answers": sum(len(item.answer_ids) == 1 for item in scored),
            "refused": skipped_of(base, kind),
            "seed": seed,
            **(details or {}),
        },
    )


def mean_score(readings: Readings, kind: str, score: Score) -> float | None:
    """The mean of ``score`` over the items of ``kind`` in one model; ``None`` for no items."""
    scores = _scores(readings, kind, score)
    return float(np.mean(scores)) if scores else None


def _scores(readings: Readings, kind: str, score: Score) -> list[float]:
    return [score(readings.answer_logprobs[index], readings.answer_hits[index]) for index in readings.of(kind)]


def _means(readings: Mapping[str, Readings], kind: str, score: Score, seed: int) -> dict[str, Mean]:
    return {role: mean_of(_scores(model, kind, score), seed) for role, model in readings.items()}


def control_means(readings: Mapping[str, Readings], kind: str, score: Score, seed: int) -> dict[str, Mean]:
    """The mean over the items of ``kind`` in each model; over the base's own answers where no answer is given."""
    return _means(readings, kind if readings["base"].of(kind) else OWN_ANSWERS.get(kind, kind), score, seed)


def as_control(means: Mapping[str, Mean]) -> Control | None:
    """The means over unrelated questions as a control; ``None`` where no such question was scored."""
    mean = means.get("unlearned")
    if mean is None or mean.value is None:
        return None
    return Control(name=UNRELATED_QUESTIONS, value=mean.value, interval=mean.interval, base=means["base"].value)


def _rows(
    base: Readings, scored_kind: str, means: Mapping[str, Mean], own_kind: str | None, own: Mapping[str, Mean]
) -> list[dict[str, Cell]]:
    """One row per question; the columns of the base's own answer are empty where it could not be scored."""
    own_items = base.of(own_kind) if own_kind else []
    own_positions = {base.items[index].question: position for position, index in enumerate(own_items)}
    rows = []
    for position, index in enumerate(base.of(scored_kind)):
        item = base.items[index]
        row: dict[str, Cell] = {"question": item.question, "answer": item.answer, "tokens": len(item.answer_ids)}
        row |= {role: float(mean.scores[position]) for role, mean in means.items()}
        if own_kind:
            own_position = own_positions.get(item.question)
            if own_position is None:
                row |= {"own_answer": None, **{f"own_{role}": None for role in own}}
            else:
                row["own_answer"] = base.items[own_items[own_position]].answer
                row |= {f"own_{role}": float(mean.scores[own_position]) for role, mean in own.items()}
        rows.append(row)
    return rows


def _summary(own: Mapping[str, Mean]) -> dict[str, Any]:
    return {"n": len(own["base"].scores)} | {role: mean.value for role, mean in own.items()}


def skipped_of(base: Readings, kind: str) -> dict[str, str]:
    """The items of ``kind`` that could not be scored -> the reason."""
    return {name: reason for name, reason in base.skipped.items() if f"{kind}/" in name}


def reason_nothing_scored(base: Readings, kind: str, no_items: str) -> str:
    """Why no item of ``kind`` was scored; ``no_items`` where the topic has no such item."""
    skipped = skipped_of(base, kind)
    if not skipped:
        return no_items
    name, reason = next(iter(skipped.items()))
    return f"none of the {len(skipped)} questions can be scored; {name}: {reason}"
