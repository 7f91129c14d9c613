"""Share of the questions to which the model's greedy answer is correct.

An answer to a concept's question is correct if it contains an accepted answer as whole words. An answer to a skill's
question is checked by the skill's checker: the final number, the text, the letter, or a program's tests where the user
allowed programs to be run. What makes it wrong: a correct answer in words that the checker does not accept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from audit.metrics.answers._answers import UNRELATED_QUESTIONS
from audit.metrics.contract import Evidence
from audit.questions.kinds import kinds
from audit.questions.readings import Readings
from audit.result import Control, Measured, not_measured
from audit.statistics import share_interval

TITLE = "Answers that are right"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    correct = {role: correct_answers(readings, "target") for role, readings in evidence.readings.items()}
    base, unlearned = correct["base"], correct["unlearned"]
    if not len(unlearned):
        reason = "no answer could be checked: none is given, or programs would have to be run (--run-code)"
        return not_measured(reason)
    unrelated = {role: correct_answers(readings, "unrelated") for role, readings in evidence.readings.items()}
    control = None
    if len(unrelated["unlearned"]):
        control = Control(
            name=UNRELATED_QUESTIONS,
            value=float(unrelated["unlearned"].mean()),
            interval=share_interval(unrelated["unlearned"]),
            base=float(unrelated["base"].mean()) if len(unrelated["base"]) else None,
        )
    return Measured(
        value=float(unlearned.mean()),
        interval=share_interval(unlearned),
        base=float(base.mean()),
        base_interval=share_interval(base),
        retained=float(correct["retained"].mean()) if "retained" in correct else None,
        unit="share of answers",
        direction="knowledge",
        n=len(unlearned),
        control=control,
        details={
            "lost": int((base & ~unlearned).sum()),
            "gained": int((~base & unlearned).sum()),
            "by_kind": by_kind(evidence.readings),
        },
    )


def correct_answers(readings: Readings, kind: str) -> Bool[np.ndarray, " n"]:
    """Whether each checked answer to a question of ``kind`` is correct, in the order of the questions."""
    return np.array([correct for name, correct in readings.right.items() if name.startswith(f"{kind}/")], dtype=bool)


def by_kind(readings: Mapping[str, Readings]) -> dict[str, dict[str, float | int]]:
    """Kind of question -> number of checked answers and the share correct in each model, where answers are written."""
    rows = {}
    for name, kind in kinds().items():
        correct = {role: correct_answers(model, name) for role, model in readings.items()}
        if "written" in kind.READS and len(correct["base"]):
            rows[name] = {"n": len(correct["base"]), **{role: float(each.mean()) for role, each in correct.items()}}
    return rows
