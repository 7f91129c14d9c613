"""What the metrics of scored answers share: one number an item, averaged over questions, for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Control, Direction, Interval, Measured
from audit.statistics import bootstrap_interval

Score = Callable[[np.ndarray, np.ndarray], float]
"""Log-probabilities and hits of one answer's tokens -> its score."""

OWN: Mapping[str, str] = {"target": "target_own", "unrelated": "unrelated_own"}
"""The base's own answers, for kinds that are answered freely too."""
UNRELATED: Final = "unrelated questions"
NONE: Mapping[str, str] = {
    "target": "no questions about the concept were given",
    "unrelated": "no unrelated questions were given",
    "neighbour": "none of the neighbouring questions has an answer to score",
}


@dataclass(frozen=True)
class Mean:
    """Scores of the same items in one model, and their mean with its bootstrap interval."""

    scores: np.ndarray
    value: float | None
    interval: Interval | None


def mean_of(scores: Sequence[float] | np.ndarray, seed: int) -> Mean:
    """The mean; ``None`` where there are no items."""
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
    """``score`` averaged over the questions of ``kind``, base, unlearned and retained, with ``control`` beside it.

    Given answers decide; where the concept gives none, the base's own greedy answers do, and ``details["answers"]``
    says so. The own answers' scores are in ``details["own_answers"]`` and, by item, in ``items``; a ``kind`` that
    ``OWN`` does not name has none.
    """
    readings = evidence.readings
    own_kind = OWN.get(kind)
    primary = kind if own_kind is None or readings["base"].of(kind) else own_kind
    means = {role: _mean(found, primary, score, evidence.seed) for role, found in readings.items()}
    unlearned = means["unlearned"]
    if unlearned.value is None:
        return Measured(not_measured=why_none(readings["base"], kind, NONE[kind]))
    own = {role: _mean(found, own_kind, score, evidence.seed) for role, found in readings.items()} if own_kind else {}
    controls = control_means(readings, control, score, evidence.seed) if control else {}
    scored = [readings["base"].items[index] for index in readings["base"].of(primary)]
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
        items=_rows(readings["base"], primary, means, own_kind, own),
        details={
            "answers": "given" if primary == kind else "the base's own",
            **({"own_answers": _summary(own)} if own else {}),
            "one_token_answers": sum(len(item.answer_ids) == 1 for item in scored),
            "refused": refused(readings["base"], kind),
            "seed": evidence.seed,
            **(details or {}),
        },
    )


def mean_score(readings: Readings, kind: str, score: Score) -> float | None:
    """The mean of ``score`` over the items of ``kind``, for a number given beside the main one."""
    return mean_of(_scores(readings, kind, score), 0).value


def _scores(readings: Readings, kind: str, score: Score) -> list[float]:
    return [score(readings.answer_logprobs[index], readings.answer_hits[index]) for index in readings.of(kind)]


def _mean(readings: Readings, kind: str, score: Score, seed: int) -> Mean:
    return mean_of(_scores(readings, kind, score), seed)


def control_means(readings: Mapping[str, Readings], kind: str, score: Score, seed: int) -> dict[str, Mean]:
    """The mean over the items of ``kind`` in each model, by their own answers where none is given."""
    chosen = kind if readings["base"].of(kind) else OWN.get(kind, kind)
    return {role: _mean(found, chosen, score, seed) for role, found in readings.items()}


def as_control(means: Mapping[str, Mean]) -> Control | None:
    """The means over unrelated questions as a control, where there are any."""
    mean = means.get("unlearned")
    if mean is None or mean.value is None:
        return None
    return Control(name=UNRELATED, value=mean.value, interval=mean.interval, base=means["base"].value)


def _rows(
    base: Readings, primary: str, means: Mapping[str, Mean], own_kind: str | None, own: Mapping[str, Mean]
) -> list[dict[str, Cell]]:
    """One row a question; the own answer's columns are empty where it could not be scored."""
    own_items = base.of(own_kind) if own_kind else []
    own_at = {base.items[index].question: place for place, index in enumerate(own_items)}
    rows = []
    for place, index in enumerate(base.of(primary)):
        item = base.items[index]
        row: dict[str, Cell] = {"question": item.question, "answer": item.answer, "tokens": len(item.answer_ids)}
        row |= {role: float(mean.scores[place]) for role, mean in means.items()}
        if own_kind:
            at = own_at.get(item.question)
            row["own_answer"] = None if at is None else base.items[own_items[at]].answer
            row |= {f"own_{role}": None if at is None else float(mean.scores[at]) for role, mean in own.items()}
        rows.append(row)
    return rows


def _summary(own: Mapping[str, Mean]) -> dict[str, Any]:
    return {"n": len(own["base"].scores)} | {role: mean.value for role, mean in own.items()}


def refused(base: Readings, kind: str) -> dict[str, str]:
    """What of ``kind`` could not be scored, with the reason."""
    return {name: reason for name, reason in base.skipped.items() if f"{kind}/" in name}


def why_none(base: Readings, kind: str, none: str) -> str:
    """Why nothing of ``kind`` was scored; ``none`` where nothing was given to score."""
    without = refused(base, kind)
    if not without:
        return none
    name, reason = next(iter(without.items()))
    return f"none of the {len(without)} questions can be scored; {name}: {reason}"
