"""Share of the questions that the model answers rightly in its own words, greedily.

An answer to a concept's question is right if it holds an accepted one as whole words; a skill's by its checker: the
final number, the text, the letter, or a program's tests where the user allowed programs to be run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from audit.metrics.answers._answers import UNRELATED
from audit.metrics.contract import Evidence
from audit.questions.kinds import kinds
from audit.questions.readings import Readings
from audit.result import Control, Measured, not_measured
from audit.statistics import share_interval

TITLE = "Answers that are right"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    rights = {role: of_kind(readings, "target") for role, readings in evidence.readings.items()}
    base, unlearned = rights["base"], rights["unlearned"]
    if not len(unlearned):
        reason = "no answer could be checked: none is given, or programs would have to be run (--run-code)"
        return not_measured(reason)
    unrelated = {role: of_kind(readings, "unrelated") for role, readings in evidence.readings.items()}
    control = None
    if len(unrelated["unlearned"]):
        control = Control(
            name=UNRELATED,
            value=float(unrelated["unlearned"].mean()),
            interval=share_interval(unrelated["unlearned"]),
            base=float(unrelated["base"].mean()) if len(unrelated["base"]) else None,
        )
    return Measured(
        value=float(unlearned.mean()),
        interval=share_interval(unlearned),
        base=float(base.mean()),
        base_interval=share_interval(base),
        retained=float(rights["retained"].mean()) if "retained" in rights else None,
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


def of_kind(readings: Readings, kind: str) -> np.ndarray:
    """Which of the checked answers are right, in the order asked ``[n]`` bool."""
    return np.array([right for name, right in readings.right.items() if name.startswith(f"{kind}/")], dtype=bool)


def by_kind(readings: Mapping[str, Readings]) -> dict[str, dict[str, float | int]]:
    """Kind of question -> number of checked answers and the share right in each model; the kinds that are written."""
    rows = {}
    for name, kind in kinds().items():
        right = {role: of_kind(model, name) for role, model in readings.items()}
        if "written" in kind.READS and len(right["base"]):
            rows[name] = {"n": len(right["base"]), **{role: float(each.mean()) for role, each in right.items()}}
    return rows
