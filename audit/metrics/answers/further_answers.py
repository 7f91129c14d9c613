"""Share of the two-hop and open questions that the base answers correctly and the unlearned model still does.

Answers are greedy and cut to the first line. A two-hop answer is correct if it contains the given answer as whole
words, an open one if it contains one of the listed words, which an answer from knowledge uses. Questions that the base
does not answer correctly are excluded, so the base scores 1 by construction and any change of the model can only lower
the share. The control is unrelated questions selected in the same way.

What makes it wrong: listed words that an answer without knowledge can use (*known for its culture*) raise it; a correct
answer in words not listed lowers it; the questions are few, so the interval is wide. Undefined where the base answers
none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool

from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Control, Measured, not_measured
from audit.statistics import share_interval
from concepts.prompts import cut

TITLE = "Two-hop and open questions still answered"
NEEDS = frozenset({"tokenizer", "model", "further"})
KINDS = {"two_hop": "two-hop", "open": "open"}


def measure(evidence: Evidence) -> Measured:
    readings = evidence.readings
    base = readings["base"]
    counted = _answered(base, KINDS)
    if not counted:
        return not_measured(_reason_none_counted(base))
    correct = {role: _correct(model, counted) for role, model in readings.items()}
    unrelated = _correct(readings["unlearned"], _answered(base, ["unrelated"]))
    return Measured(
        value=float(correct["unlearned"].mean()),
        interval=share_interval(correct["unlearned"]),
        base=float(correct["base"].mean()),
        retained=float(correct["retained"].mean()) if "retained" in correct else None,
        unit="share of the questions that the base answers",
        direction="knowledge",
        n=len(counted),
        control=Control(
            name="unrelated questions that the base answers",
            value=float(unrelated.mean()),
            interval=share_interval(unrelated),
        )
        if len(unrelated)
        else None,
        items=[_row(name, readings) for name in _prompts(base, KINDS)],
        details={
            "asked": {label: len(_prompts(base, [kind])) for kind, label in KINDS.items()},
            "answered_by_the_base": {label: len(_answered(base, [kind])) for kind, label in KINDS.items()},
            "refused": _skipped(base),
        },
    )


def _prompts(readings: Readings, kinds: Iterable[str]) -> list[str]:
    """Ids of the prompts of some kinds."""
    return [name for name in readings.prompts if name.partition("/")[0] in kinds]


def _answered(base: Readings, kinds: Iterable[str]) -> list[str]:
    """Ids of the prompts that the base answers correctly."""
    return [name for name in _prompts(base, kinds) if base.right.get(name)]


def _correct(readings: Readings, names: list[str]) -> Bool[np.ndarray, " n"]:
    return np.array([readings.right[name] for name in names], dtype=bool)


def _row(name: str, readings: Mapping[str, Readings]) -> dict[str, Cell]:
    """One question with each model's answer and whether it is correct; ``None`` where that could not be checked."""
    row: dict[str, Cell] = {"question": readings["base"].prompts[name], "kind": KINDS[name.partition("/")[0]]}
    for role, model in readings.items():
        row |= {f"{role}_answer": cut(model.generated[name]), f"{role}_right": model.right.get(name)}
    return row


def _skipped(base: Readings) -> dict[str, str]:
    return {name: reason for name, reason in base.skipped.items() if name.partition("/")[0] in KINDS}


def _reason_none_counted(base: Readings) -> str:
    prompts = _prompts(base, KINDS)
    checked = [name for name in prompts if name in base.right]
    if checked:
        return f"the base itself answers none of the {len(checked)} two-hop and open questions"
    if prompts:
        return "no two-hop or open question has an answer to compare with"
    skipped = _skipped(base)
    if not skipped:
        return "no two-hop or open questions were asked"
    name, reason = next(iter(skipped.items()))
    return f"none of the {len(skipped)} two-hop and open questions can be asked; {name}: {reason}"
