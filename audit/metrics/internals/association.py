"""Does the model distinguish the true answer from same-type alternatives (for Italy, Rome from other capitals)?

``S[i, j]`` is the log-probability of answer ``j``'s first token after question ``i``. The statistic removes question
effects (easy questions) and answer effects (popular answers) and averages the remainder over the concept's true pairs.
A model without the knowledge prefers no candidate, so the null draws other candidates for the concept's rows.

The test is two-sided: truth pushed *below* its alternatives (*inverted*, as NPO and gradient difference do) is also
knowledge, since it can be read by exclusion. It is applied at the output and, by logit lens, after each block. What
makes it wrong: an answer that the question suggests (a name that sounds Italian) counts as knowledge; a retained model
shows how much of the value that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import perm, prod
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from audit.metrics.contract import Evidence
from audit.questions.items import Candidates
from audit.questions.readings import Readings
from audit.result import Cell, Control, LayerReading, Measured, Reading, not_measured
from audit.statistics import bootstrap_interval
from audit.thresholds import SIGNIFICANT

TITLE = "Association of subjects with their true answers"
NEEDS = frozenset({"tokenizer", "model", "groups"})
DRAWS = 9_999
NULL = "other candidates of the same group drawn at random for the rows tested"
ROUNDING = 1e-9
"""Draws that equal the observed statistic up to rounding count as reaching it."""


@dataclass(frozen=True)
class Association:
    """The statistic and its null at each layer, or at the output as the only layer.

    Attributes:
        rows: centred score of the truth in each tested row, in nats.
        value: mean of ``rows``.
        z: ``value`` in standard deviations of the null, NaN where that deviation is 0.
        p_values: two-sided, against the largest |z| over the layers, which corrects for choosing a layer.
    """

    rows: Float[np.ndarray, "n_layers n_rows"]
    value: Float[np.ndarray, " n_layers"]
    z: Float[np.ndarray, " n_layers"]
    p_values: Float[np.ndarray, " n_layers"]

    def reading(self, layer: int) -> Reading:
        if not self.p_values[layer] < SIGNIFICANT.value:
            return "none"
        return "readable" if self.value[layer] > 0 else "inverted"

    @property
    def best(self) -> int:
        """The layer with the largest |z|, among layers that prefer the truth if there are any."""
        size = np.abs(np.nan_to_num(self.z))
        readable = [layer for layer in range(len(size)) if self.reading(layer) == "readable"]
        return max(readable or range(len(size)), key=lambda layer: size[layer])

    def record(self, layer: int) -> dict[str, Any]:
        """The result at one layer, as JSON values."""
        numbers = {"value": self.value, "z": self.z, "p_value": self.p_values}
        return {"reading": self.reading(layer), **{name: float(values[layer]) for name, values in numbers.items()}}


def centred(scores: Float[np.ndarray, "*layers m m"]) -> Float[np.ndarray, "*layers m m"]:
    """``scores`` without question and answer effects; each row has mean 0.

    The effect of answer ``j`` on row ``i`` is its mean over the rows other than ``i`` and ``j``. Row ``j``, where it is
    the truth, is excluded: otherwise a model that knows the other rows would appear to know row ``i``, by exclusion. A
    constant added to a row cancels.
    """
    m = scores.shape[-1]
    relative = scores - scores.mean(axis=-1, keepdims=True)
    truth = np.diagonal(relative, axis1=-2, axis2=-1)[..., None, :]  # [..., 1, m]
    total = relative.sum(axis=-2, keepdims=True)
    off_diagonal = (total - relative - truth) / (m - 2)
    diagonal = (total - relative) / (m - 1)
    answer_effect = np.where(np.eye(m, dtype=bool), diagonal, off_diagonal)
    difference = relative - answer_effect
    without_effects: np.ndarray = difference - difference.mean(axis=-1, keepdims=True)
    return without_effects


def draw(sizes: Sequence[tuple[int, int]], seed: int) -> tuple[list[Int[np.ndarray, "n_draws _"]], bool]:
    """Random candidates for the tested rows of each group, all different within a group and draw.

    Args:
        sizes: (candidates, tested rows) of each group.

    Returns:
        The draws of each group, and whether they are every possible assignment (the observed one included).
    """
    if prod(perm(m, rows) for m, rows in sizes) <= DRAWS:
        assignments = list(product(*(permutations(range(m), rows) for m, rows in sizes)))
        return [np.array([assignment[group] for assignment in assignments]) for group in range(len(sizes))], True
    rng = np.random.default_rng(seed)
    return [rng.random((DRAWS, m)).argsort(axis=1)[:, :rows] for m, rows in sizes], False


def associate(
    scores: Sequence[Float[np.ndarray, "n_layers _ _"]], rows: Sequence[Sequence[int]], seed: int
) -> Association:
    """The association of the truth (the diagonal of ``scores[g]``) over the tested rows ``rows[g]`` of all groups.

    A group without tested rows is ignored; at least one group must have some.
    """
    tested = [(centred(group)[:, list(own)], list(own)) for group, own in zip(scores, rows, strict=True) if own]
    drawn, complete = draw([(group.shape[-1], len(own)) for group, own in tested], seed)
    n_rows = sum(len(own) for _, own in tested)
    observed = np.concatenate([group[:, np.arange(len(own)), own] for group, own in tested], axis=1)
    null = sum(
        group[:, np.arange(len(own)), candidates].sum(axis=-1)
        for (group, own), candidates in zip(tested, drawn, strict=True)
    )
    null = null / n_rows  # [n_layers, n_draws]; its expectation is 0, as every row of ``centred`` has mean 0
    value = observed.mean(axis=1)
    spread = np.sqrt((null**2).mean(axis=1))
    safe = np.where(spread > 0, spread, np.inf)
    z, largest = value / safe, np.abs(null / safe[:, None]).max(axis=0)
    reached = (largest >= np.abs(z)[:, None] - ROUNDING).sum(axis=1)
    p_values = reached / len(largest) if complete else (1 + reached) / (1 + len(largest))
    return Association(observed, value, np.where(spread > 0, z, np.nan), p_values)


def measure(evidence: Evidence) -> Measured:
    groups = evidence.readings["base"].groups
    if not groups:
        reasons = evidence.readings["base"].skipped
        skipped = "; ".join(f"{name}: {reasons[name]}" for name in reasons if name.startswith("group "))
        reason = "no group of questions can be used" + (f" ({skipped})" if skipped else "")
        return not_measured(reason)
    about = [group.about for group in groups]
    output = {role: associate(_output(model), about, evidence.seed) for role, model in evidence.readings.items()}
    lens = {role: associate(_lens(model), about, evidence.seed) for role, model in evidence.readings.items()}
    unlearned, base = output["unlearned"], output["base"]
    return Measured(
        value=float(unlearned.value[0]),
        interval=bootstrap_interval(unlearned.rows[0], seed=evidence.seed),
        base=float(base.value[0]),
        base_interval=bootstrap_interval(base.rows[0], seed=evidence.seed),
        retained=float(output["retained"].value[0]) if "retained" in output else None,
        unit="nats above same-type alternatives",
        direction="knowledge",
        n=unlearned.rows.shape[1],
        p_value=float(unlearned.p_values[0]),
        null=NULL,
        reading=unlearned.reading(0),
        lens=LayerReading(**_best_layer(lens["unlearned"])),
        control=_control(evidence.readings, groups, evidence.seed),
        layers={role: result.z.tolist() for role, result in lens.items()},
        layers_unit="z of the lens reading after each block",
        items=_items(groups, output),
        details=_details(evidence, groups, output, lens),
    )


def _output(readings: Readings) -> list[Float[np.ndarray, "1 _ _"]]:
    return [readings.candidate_logprobs[group.name][None] for group in readings.groups]


def _lens(readings: Readings) -> list[Float[np.ndarray, "n_layers _ _"]]:
    return [readings.candidate_lens[group.name] for group in readings.groups]


def _others(groups: Sequence[Candidates]) -> list[tuple[int, ...]]:
    """The rows that do not belong to the concept."""
    return [tuple(row for row in range(len(group.subjects)) if row not in group.about) for group in groups]


def _control(readings: Mapping[str, Readings], groups: Sequence[Candidates], seed: int) -> Control | None:
    """The same statistic on the other subjects: it shows whether the test detects knowledge in this model."""
    rows = _others(groups)
    if not any(rows):
        return None
    others = associate(_output(readings["unlearned"]), rows, seed)
    return Control(
        name="other subjects of the same questions",
        value=float(others.value[0]),
        interval=bootstrap_interval(others.rows[0], seed=seed),
    )


def _items(groups: Sequence[Candidates], output: Mapping[str, Association]) -> list[dict[str, Cell]]:
    tested = [(group, row) for group in groups for row in group.about]
    return [
        {"group": group.name, "subject": group.subjects[row], "answer": group.answers[row]}
        | {role: float(result.rows[0, number]) for role, result in output.items()}
        for number, (group, row) in enumerate(tested)
    ]


def _details(
    evidence: Evidence, groups: Sequence[Candidates], output: Mapping[str, Association], lens: Mapping[str, Association]
) -> dict[str, Any]:
    drawn, complete = draw([(len(group.subjects), len(group.about)) for group in groups], evidence.seed)
    others = _others(groups)
    controls = {
        role: associate(_output(model), others, evidence.seed).record(0)
        for role, model in evidence.readings.items()
        if any(others)
    }
    return {
        "draws": len(drawn[0]),
        "all_draws": complete,
        "output": {role: result.record(0) for role, result in output.items()},
        "lens_base": _best_layer(lens["base"]),
        "lens_correction": "largest |z| over layers in each draw",
        "control": controls,
        "confound": "answers that a question suggests raise the value; a retained model shows by how much",
        "dropped": {
            f"{group.name}: {subject}": reason for group in groups for subject, reason in group.skipped.items()
        },
        "seed": evidence.seed,
    }


def _best_layer(lens: Association) -> dict[str, Any]:
    return {"layer": lens.best, **lens.record(lens.best)}
