"""Share of the two-hop and open questions that the base answers and the unlearned model still does, in their own words.

Greedily, cut to the first line. A two-hop answer is right if it holds the given one as whole words, an open one if it
holds one of the words that a knowing answer uses. What the base itself does not answer does not count, so the base has
1 by construction, and any change of a model can only lower it; the control, unrelated questions that the base answers,
is chosen in the same way.

What makes it wrong: words that an answer to any such question might use (*known for its culture*) keep it up where
nothing is known; a right answer in words not listed is missed; and there are few questions, so the interval is wide.
Undefined where the base answers none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

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
    counted = _known(base, KINDS)
    if not counted:
        return not_measured(_why_none(base))
    kept = {role: _kept(found, counted) for role, found in readings.items()}
    unrelated = _known(base, ["unrelated"])
    beside = _kept(readings["unlearned"], unrelated)
    asked = _of(base, KINDS)
    return Measured(
        value=float(kept["unlearned"].mean()),
        interval=share_interval(kept["unlearned"]),
        base=float(kept["base"].mean()),
        retained=float(kept["retained"].mean()) if "retained" in kept else None,
        unit="share of the questions that the base answers",
        direction="knowledge",
        n=len(counted),
        control=Control(
            name="unrelated questions that the base answers",
            value=float(beside.mean()),
            interval=share_interval(beside),
        )
        if len(beside)
        else None,
        items=[_row(name, readings) for name in asked],
        details={
            "asked": {words: len(_of(base, [kind])) for kind, words in KINDS.items()},
            "answered_by_the_base": {words: len(_known(base, [kind])) for kind, words in KINDS.items()},
            "refused": _refused(base),
        },
    )


def _of(readings: Readings, kinds: Iterable[str]) -> list[str]:
    return [name for name in readings.prompts if name.partition("/")[0] in kinds]


def _known(base: Readings, kinds: Iterable[str]) -> list[str]:
    """Ids of the questions that the base answers rightly."""
    return [name for name in _of(base, kinds) if base.right.get(name)]


def _kept(readings: Readings, names: list[str]) -> np.ndarray:
    return np.array([readings.right[name] for name in names], dtype=bool)


def _row(name: str, readings: Mapping[str, Readings]) -> dict[str, Cell]:
    """One question with what each model wrote, and whether that is right where it can be told."""
    row: dict[str, Cell] = {"question": readings["base"].prompts[name], "kind": KINDS[name.partition("/")[0]]}
    for role, found in readings.items():
        row |= {f"{role}_answer": cut(found.generated[name]), f"{role}_right": found.right.get(name)}
    return row


def _refused(base: Readings) -> dict[str, str]:
    return {name: reason for name, reason in base.skipped.items() if name.partition("/")[0] in KINDS}


def _why_none(base: Readings) -> str:
    asked, checked = _of(base, KINDS), [name for name in _of(base, KINDS) if name in base.right]
    if checked:
        return f"the base itself answers none of the {len(checked)} two-hop and open questions"
    if asked:
        return "no two-hop or open question has an answer to compare with"
    refused = _refused(base)
    if not refused:
        return "no two-hop or open questions were asked"
    name, reason = next(iter(refused.items()))
    return f"none of the {len(refused)} two-hop and open questions can be asked; {name}: {reason}"
