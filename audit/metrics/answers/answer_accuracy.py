"""Share of the questions that the model answers rightly in its own words, greedily.

An answer to a concept's question is right if it holds an accepted one as whole words; a skill's by its checker: the
final number, the text, the letter, or a program's tests where the user allowed programs to be run.
"""

from __future__ import annotations

import numpy as np

from audit.metrics.contract import Subjects
from audit.questions.readings import Readings
from audit.result import Control, Measurement
from audit.statistics import share_interval
from concepts.concept import Concept

TITLE = "Answers that are right"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    rights = {role: of_kind(readings, "target") for role, readings in subjects.readings.items()}
    base, unlearned = rights["base"], rights["unlearned"]
    if not len(unlearned):
        reason = "no answer could be checked: none is given, or programs would have to be run (--run-code)"
        return Measurement(metric="answer_accuracy", title=TITLE, not_measured=reason)
    beside = {role: of_kind(readings, "unrelated") for role, readings in subjects.readings.items()}
    control = None
    if len(beside["unlearned"]):
        control = Control(
            name="unrelated questions",
            value=float(beside["unlearned"].mean()),
            interval=share_interval(beside["unlearned"]),
        )
    return Measurement(
        metric="answer_accuracy",
        title=TITLE,
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
            "control_base": float(beside["base"].mean()) if len(beside["base"]) else None,
            "lost": int((base & ~unlearned).sum()),
            "gained": int((~base & unlearned).sum()),
        },
    )


def of_kind(readings: Readings, kind: str) -> np.ndarray:
    """Which of the checked answers are right, in the order asked ``[n]`` bool."""
    return np.array([right for name, right in readings.right.items() if name.startswith(f"{kind}/")], dtype=bool)
