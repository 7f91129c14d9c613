"""Share of the facts that at least one of several drawn answers gives away (leak@k), and what guessing gives.

Answers are drawn at temperature 1, as many a fact as the attack ``sampled`` draws. Some are right by chance, and the
more are drawn the more. So each fact's answers are also searched for the other answers of its type: the control is the
share of these that occur, and the p-value exchanges the answers of one type. Facts without a type count for the value
alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from audit.attacks.sampled import drawn_id
from audit.knowledge.exchange import ROUNDING, Block, Draws, exchange
from audit.metrics.contract import Evidence
from audit.questions.conditions import AS_IS
from audit.questions.items import FACT, FactGroup
from audit.questions.readings import Readings
from audit.result import Cell, Control, Measured, not_measured
from audit.statistics import bootstrap_interval
from concepts.prompts import mentions

TITLE = "Facts that one of several drawn answers gives away"
NEEDS = frozenset({"tokenizer", "model", "facts", "sampled"})
ATTACK = "sampled"
NULL = "answers of one type exchanged at random"
CONTROL = "other answers of the same type, in the same drawn answers"


def measure(evidence: Evidence) -> Measured:
    conditions, seed = evidence.conditions(ATTACK), evidence.seed
    if not conditions:
        return not_measured("no answers were drawn (--attacks full, or sampled)")
    drawn = evidence.by_condition[conditions[0]]
    if not {"base", "unlearned"} <= set(drawn):
        return not_measured(next((why for (_, name), why in evidence.not_run.items() if name == ATTACK), "not run"))
    right = {role: np.array(list(readings.right.values()), dtype=float) for role, readings in drawn.items()}
    groups = [group for group in evidence.by_condition[AS_IS]["base"].groups if group.kind == FACT]
    test = _exchanged(groups, drawn["unlearned"], seed) if groups else None
    return Measured(
        value=float(right["unlearned"].mean()),
        interval=bootstrap_interval(right["unlearned"], seed=seed),
        base=float(right["base"].mean()),
        base_interval=bootstrap_interval(right["base"], seed=seed),
        retained=float(right["retained"].mean()) if "retained" in right else None,
        unit=f"share of facts given away ({conditions[0].dose})",
        direction="knowledge",
        n=len(right["unlearned"]),
        p_value=None if test is None else test[1],
        null=None if test is None else NULL,
        control=None if test is None else Control(name=CONTROL, value=test[0], base=_chance(groups, drawn["base"])),
        items=_rows(drawn),
        details={"reference": _reference(evidence), "seed": seed},
    )


def occurrences(group: FactGroup, generated: Mapping[str, str]) -> Float[np.ndarray, "m m"]:
    """1 where the drawn answers to question ``i`` contain answer ``j``."""
    texts = [generated[drawn_id(name)].split("\n") for name in group.ids]
    return np.array(
        [[float(any(mentions(line, [answer]) for line in lines)) for answer in group.answers] for lines in texts]
    )


def _exchanged(groups: list[FactGroup], readings: Readings, seed: int) -> tuple[float, float]:
    """Share of other answers that occur, and the one-sided p-value of true ones occurring more often."""
    blocks, start = [], 0
    for group in groups:
        blocks.append(Block(start + np.arange(len(group.ids)), occurrences(group, readings.generated)[None]))
        start += len(group.ids)
    draws = Draws.of(np.repeat(np.arange(len(blocks)), [len(block.facts) for block in blocks]), seed)
    test = exchange(blocks, draws, centre=False)
    return _chance(groups, readings), draws.p_value(int((test.null[0] >= test.value[0] - ROUNDING).sum()))


def _chance(groups: list[FactGroup], readings: Readings) -> float:
    """How often an answer of the same type, other than the true one, occurs; mean over facts."""
    shares = []
    for group in groups:
        found = occurrences(group, readings.generated)
        for row, answer in enumerate(group.answers):
            others = [column for column, other in enumerate(group.answers) if not mentions(other, [answer])]
            if others:
                shares.append(found[row, others].mean())
    return float(np.mean(shares)) if shares else 0.0


def _reference(evidence: Evidence) -> float | None:
    """The reference's value, where it was read."""
    readings = evidence.others.get("reference", {}).get(evidence.conditions(ATTACK)[0])
    return float(np.mean(list(readings.right.values()))) if readings is not None and readings.right else None


def _rows(drawn: Mapping[str, Readings]) -> list[dict[str, Cell]]:
    base = drawn["base"]
    return [
        {"question": base.prompts[name], "answer": next(iter(base.answers.get(name, ())), "")}
        | {role: bool(readings.right[name]) for role, readings in drawn.items()}
        for name in base.right
    ]
