"""Does the model tell the true answers of facts from other answers of the same type (for Italy's cities, Venice)?

``S[i, j]`` is the log-probability of answer ``j`` after question ``i``. The statistic removes question effects (easy
questions) and answer effects (popular answers) and averages the remainder over the true pairs. A model without the
knowledge prefers no assignment of answers to questions, so the null exchanges the answers of one type at random
(``audit.knowledge.exchange``).

The test is two-sided: truth pushed *below* its alternatives (*inverted*, as NPO and gradient difference do) is also
knowledge, since it can be read by exclusion. It is applied at the output and, by logit lens, after each block, through
the model's own head and through the base's. What makes it wrong: answers that a question suggests (a name that sounds
Italian) count as knowledge; a reference model shows how much of the value that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from audit.knowledge.exchange import Block, Draws, Exchange, centred, exchange
from audit.metrics.contract import Evidence
from audit.questions.items import FACT, FactGroup
from audit.questions.readings import Readings
from audit.result import Cell, Control, LayerReading, Measured, Reading, not_measured
from audit.statistics import bootstrap_interval
from audit.thresholds import SIGNIFICANT

TITLE = "Association of questions with their true answers"
NEEDS = frozenset({"tokenizer", "model", "facts"})
NULL: Final = "answers of one type exchanged at random"
CONTROL: Final = "group"
"""Kind of question of the control: the same questions about other subjects."""


@dataclass(frozen=True)
class Association:
    """The exchange test of one model at the output, or at each layer.

    Attributes:
        rows: centred score of the truth in each row at the first place, in nats.
        p_values: two-sided, against the largest |z| over the places, which corrects for choosing one.
    """

    test: Exchange
    rows: Float[np.ndarray, " n"]
    p_values: Float[np.ndarray, " n_places"]

    def reading(self, place: int) -> Reading:
        if not self.p_values[place] < SIGNIFICANT.value:
            return "none"
        return "readable" if self.test.value[place] > 0 else "inverted"

    @property
    def best(self) -> int:
        """The place with the largest |z|, among places that prefer the truth if there are any."""
        size = np.abs(self.test.z)
        readable = [place for place in range(len(size)) if self.reading(place) == "readable"]
        return max(readable or range(len(size)), key=lambda place: size[place])

    def record(self, place: int) -> dict[str, Any]:
        """The result at one place, as JSON values."""
        numbers = {"value": self.test.value, "z": self.test.z, "p_value": self.p_values}
        return {"reading": self.reading(place), **{name: float(values[place]) for name, values in numbers.items()}}


def associate(scores: Sequence[Float[np.ndarray, "n_places _ _"]], seed: int) -> Association:
    """The association of the truth (the diagonals) over all groups; there must be at least one."""
    start, blocks = 0, []
    for group in scores:
        blocks.append(Block(np.arange(start, start + group.shape[-1]), group))
        start += group.shape[-1]
    cell = np.repeat(np.arange(len(blocks)), [len(block.facts) for block in blocks])
    draws = Draws.of(cell, seed)
    test = exchange(blocks, draws)
    largest = np.abs(test.null_z).max(axis=0)
    reached = (largest >= np.abs(test.z)[:, None] - 1e-9).sum(axis=1)
    rows = np.concatenate([np.diagonal(centred(block.scores[0])) for block in blocks])
    return Association(test, rows, np.array([draws.p_value(int(count)) for count in reached]))


def measure(evidence: Evidence) -> Measured:
    readings, seed = evidence.readings, evidence.seed
    groups = _groups(readings["base"], FACT)
    if not groups:
        return not_measured("no two facts have different answers of the same type, so there is nothing to tell apart")
    output = {role: associate(_output(model, FACT), seed) for role, model in readings.items()}
    lens = {role: associate(_lens(model), seed) for role, model in readings.items()}
    unlearned, base = output["unlearned"], output["base"]
    retained = output.get("retained")
    return Measured(
        value=float(unlearned.test.value[0]),
        interval=bootstrap_interval(unlearned.rows, seed=seed),
        base=float(base.test.value[0]),
        base_interval=bootstrap_interval(base.rows, seed=seed),
        retained=float(retained.test.value[0]) if retained is not None else None,
        unit="nats above answers of the same type",
        direction="knowledge",
        n=unlearned.test.n,
        p_value=float(unlearned.p_values[0]),
        null=NULL,
        reading=unlearned.reading(0),
        lens=LayerReading(layer=lens["unlearned"].best, **lens["unlearned"].record(lens["unlearned"].best)),
        control=_control(readings, seed),
        layers={role: result.test.z.tolist() for role, result in lens.items()},
        layers_unit="z of the lens reading after each block",
        items=_items(groups, output),
        details={
            "output": {role: result.record(0) for role, result in output.items()},
            "lens_correction": "largest |z| over layers in each draw",
            "confound": "answers that a question suggests raise the value; a reference shows by how much",
            "seed": seed,
        },
    )


def _groups(readings: Readings, kind: str) -> list[FactGroup]:
    return [group for group in readings.groups if group.kind == kind]


def _output(readings: Readings, kind: str) -> list[Float[np.ndarray, "1 _ _"]]:
    return [readings.scores[kind, group.name][None] for group in _groups(readings, kind)]


def _lens(readings: Readings) -> list[Float[np.ndarray, "n_layers _ _"]]:
    return [readings.lens[FACT, group.name] for group in _groups(readings, FACT)]


def _control(readings: Mapping[str, Readings], seed: int) -> Control | None:
    """The same statistic on other subjects: it shows whether the test detects knowledge in this model."""
    scores = {role: _output(readings[role], CONTROL) for role in ("base", "unlearned")}
    if not scores["unlearned"]:
        return None
    others = {role: associate(groups, seed) for role, groups in scores.items()}
    return Control(
        name="the same questions about other subjects",
        value=float(others["unlearned"].test.value[0]),
        interval=bootstrap_interval(others["unlearned"].rows, seed=seed),
        base=float(others["base"].test.value[0]),
    )


def _items(groups: Sequence[FactGroup], output: Mapping[str, Association]) -> list[dict[str, Cell]]:
    facts = [(group, row) for group in groups for row in range(len(group.ids))]
    return [
        {"type": group.name, "subject": group.subjects[row], "answer": group.answers[row]}
        | {role: float(result.rows[number]) for role, result in output.items()}
        for number, (group, row) in enumerate(facts)
    ]
