"""Is the truth still told apart from same-type alternatives (Rome among other capitals, asked about Italy)?

``S[i, j]`` is the log-probability of answer ``j``'s first token after question ``i``. Question effects (easy questions)
and answer effects (popular answers) are taken out; what is left of the concept's true pairs is averaged. A model that
never knew gives the true answer no more than others, so drawing other candidates for the concept's rows is the null.

Two-sided: truth pushed *below* its alternatives (*inverted*, as NPO and gradient difference do) is knowledge too, for
it can be read by exclusion. Read at the output and, by lens, after each block. What a question lets anyone guess (a
name that sounds Italian) counts as well; only a retained model shows how much that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import perm, prod
from typing import Any

import numpy as np

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
    """The statistic against its null, at each of several places (layers, or the output alone).

    Attributes:
        rows: centred score of the truth in each row tested, nats ``[n_places, n_rows]``.
        value: their mean ``[n_places]``.
        z: ``value`` in standard deviations of the null, NaN where the null has none ``[n_places]``.
        p_values: two-sided, against the largest |z| over the places, so that choosing one is paid for ``[n_places]``.
    """

    rows: np.ndarray
    value: np.ndarray
    z: np.ndarray
    p_values: np.ndarray

    def reading(self, place: int) -> Reading:
        if not self.p_values[place] < SIGNIFICANT.value:
            return "none"
        return "readable" if self.value[place] > 0 else "inverted"

    @property
    def best(self) -> int:
        """The place that shows most: truth preferred before truth avoided, then the largest |z|."""
        found = np.nan_to_num(self.z)
        readable = [place for place in range(len(found)) if self.reading(place) == "readable"]
        return max(readable or range(len(found)), key=lambda place: abs(found[place]))


def centred(scores: np.ndarray) -> np.ndarray:
    """``scores`` ``[..., m, m]`` without question and answer effects; rows have mean 0.

    The effect of answer ``j`` on row ``i`` is its mean over the other rows but row ``j``, where it is the truth: else a
    model that knows the other rows would seem to know row ``i``, by exclusion. Any constant added to a row cancels.
    """
    m = scores.shape[-1]
    relative = scores - scores.mean(axis=-1, keepdims=True)
    truth = np.diagonal(relative, axis1=-2, axis2=-1)[..., None, :]  # [..., 1, m]
    total = relative.sum(axis=-2, keepdims=True)
    elsewhere = (total - relative - truth) / (m - 2)
    own = (total - relative) / (m - 1)
    popularity = np.where(np.eye(m, dtype=bool), own, elsewhere)
    difference = relative - popularity
    found: np.ndarray = difference - difference.mean(axis=-1, keepdims=True)
    return found


def draw(sizes: Sequence[tuple[int, int]], seed: int) -> tuple[list[np.ndarray], bool]:
    """Candidates for the tested rows of each group ``[n_draws, n_rows]``, all different within a group and draw.

    Args:
        sizes: (candidates, rows tested) of each group.

    Returns:
        The draws, and whether they are all there are (the observed assignment among them).
    """
    if prod(perm(m, rows) for m, rows in sizes) <= DRAWS:
        every = list(product(*(permutations(range(m), rows) for m, rows in sizes)))
        return [np.array([drawn[group] for drawn in every]) for group in range(len(sizes))], True
    rng = np.random.default_rng(seed)
    return [rng.random((DRAWS, m)).argsort(axis=1)[:, :rows] for m, rows in sizes], False


def associate(scores: Sequence[np.ndarray], rows: Sequence[Sequence[int]], seed: int) -> Association:
    """Association the truth in ``rows[g]`` of each group's scores ``[n_places, m, m]``, truth on the diagonal.

    Groups without rows take no part; at least one must have some.
    """
    chosen = [(centred(group)[:, list(own)], list(own)) for group, own in zip(scores, rows, strict=True) if own]
    drawn, complete = draw([(group.shape[-1], len(own)) for group, own in chosen], seed)
    n_rows = sum(len(own) for _, own in chosen)
    observed = np.concatenate([group[:, np.arange(len(own)), own] for group, own in chosen], axis=1)
    null = sum(
        group[:, np.arange(len(own)), candidates].sum(axis=-1)
        for (group, own), candidates in zip(chosen, drawn, strict=True)
    )
    null = null / n_rows  # [n_places, n_draws]; its expectation is 0, as every row of ``centred`` has mean 0
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
        refused = "; ".join(f"{name}: {reason}" for name, reason in evidence.readings["base"].skipped.items())
        reason = "no group of questions can be used" + (f" ({refused})" if refused else "")
        return not_measured(reason)
    about = [group.about for group in groups]
    output = {role: associate(_output(found), about, evidence.seed) for role, found in evidence.readings.items()}
    lens = {role: associate(_lens(found), about, evidence.seed) for role, found in evidence.readings.items()}
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
        lens=LayerReading(**_place(lens["unlearned"], lens["unlearned"].best, "layer")),
        control=_control(evidence.readings, groups, evidence.seed),
        layers={role: [float(z) for z in found.z] for role, found in lens.items()},
        layers_unit="z of the lens reading after each block",
        items=_items(groups, output),
        details=_details(evidence, groups, output, lens),
    )


def _output(readings: Readings) -> list[np.ndarray]:
    return [readings.candidate_logprobs[group.name][None] for group in readings.groups]


def _lens(readings: Readings) -> list[np.ndarray]:
    return [readings.candidate_lens[group.name] for group in readings.groups]


def _others(groups: Sequence[Candidates]) -> list[tuple[int, ...]]:
    """The rows that do not belong to the concept."""
    return [tuple(row for row in range(len(group.subjects)) if row not in group.about) for group in groups]


def _control(readings: Mapping[str, Readings], groups: Sequence[Candidates], seed: int) -> Control | None:
    """The same statistic on the other subjects: it shows that the test can see knowledge in this model."""
    rows = _others(groups)
    if not any(rows):
        return None
    found = associate(_output(readings["unlearned"]), rows, seed)
    return Control(
        name="other subjects of the same questions",
        value=float(found.value[0]),
        interval=bootstrap_interval(found.rows[0], seed=seed),
    )


def _items(groups: Sequence[Candidates], output: Mapping[str, Association]) -> list[dict[str, Cell]]:
    tested = [(group, row) for group in groups for row in group.about]
    return [
        {"group": group.name, "subject": group.subjects[row], "answer": group.answers[row]}
        | {role: float(found.rows[0, place]) for role, found in output.items()}
        for place, (group, row) in enumerate(tested)
    ]


def _details(
    evidence: Evidence, groups: Sequence[Candidates], output: Mapping[str, Association], lens: Mapping[str, Association]
) -> dict[str, Any]:
    drawn, complete = draw([(len(group.subjects), len(group.about)) for group in groups], evidence.seed)
    others = _others(groups)
    controls = {
        role: _place(associate(_output(found), others, evidence.seed), 0)
        for role, found in evidence.readings.items()
        if any(others)
    }
    return {
        "draws": len(drawn[0]),
        "all_draws": complete,
        "output": {role: _place(found, 0) for role, found in output.items()},
        "lens_base": _place(lens["base"], lens["base"].best, "layer"),
        "lens_correction": "largest |z| over layers in each draw",
        "control": controls,
        "confound": "what a question lets anyone guess is part of the value; a retained model would show how much",
        "dropped": {f"{group.name}: {subject}": why for group in groups for subject, why in group.skipped.items()},
        "seed": evidence.seed,
    }


def _place(found: Association, place: int, name: str | None = None) -> dict[str, Any]:
    """One place of a test as a record."""
    record = {
        "reading": found.reading(place),
        "value": float(found.value[place]),
        "z": float(found.z[place]),
        "p_value": float(found.p_values[place]),
    }
    return {name: place, **record} if name else record
