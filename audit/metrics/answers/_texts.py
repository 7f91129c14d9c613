"""Shared code of BLEU and ROUGE-L: the unlearned model's greedy answer against the base's, question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from audit.metrics.answers._answers import as_control, mean_of
from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Measured, not_measured
from concepts.prompts import cut

Similarity = Callable[[str, str], float | None]
"""Reference text, other text -> similarity from 0 to 1; ``None`` where the reference makes it undefined."""


def measure_texts(
    evidence: Evidence,
    similarity: Similarity,
    *,
    unit: str,
    details: Mapping[str, Any] | None = None,
) -> Measured:
    """``similarity`` of each model's answers to the base's, both cut to the first line that was generated.

    ``base`` compares the base's answers with themselves; for short texts it can be below 1. Questions that the base
    leaves without a comparable answer are excluded and counted.
    """
    rows = {kind: _rows(evidence.readings, kind, similarity) for kind in ("target", "unrelated")}
    means = {
        (kind, role): mean_of([row[role] for row in rows[kind]], evidence.seed)  # type: ignore[misc]  # floats
        for kind in rows
        for role in evidence.readings
    }
    unlearned, base = means["target", "unlearned"], means["target", "base"]
    if unlearned.value is None:
        return not_measured("the base gave no answer to compare with")
    n_questions = sum(name.startswith("target/") for name in evidence.readings["base"].prompts)
    return Measured(
        value=unlearned.value,
        interval=unlearned.interval,
        base=base.value,
        base_interval=base.interval,
        retained=means["target", "retained"].value if "retained" in evidence.readings else None,
        unit=unit,
        direction="knowledge",
        n=len(rows["target"]),
        control=as_control({role: means["unrelated", role] for role in ("base", "unlearned")}),
        items=rows["target"],
        details={
            "compared_with": "the base's greedy answer, not a ground truth",
            "left_out": n_questions - len(rows["target"]),
            "seed": evidence.seed,
            **(details or {}),
        },
    )


def _rows(readings: Mapping[str, Readings], kind: str, similarity: Similarity) -> list[dict[str, Cell]]:
    """One row per question to which the base gave an answer that can be compared."""
    rows: list[dict[str, Cell]] = []
    base = readings["base"]
    for name, question in base.prompts.items():
        reference = cut(base.generated[name])
        if not name.startswith(f"{kind}/") or not reference or similarity(reference, reference) is None:
            continue
        answers = {role: cut(model.generated[name]) for role, model in readings.items()}
        row: dict[str, Cell] = {"question": question}
        row |= {f"{role}_answer": answer for role, answer in answers.items()}
        row |= {role: similarity(reference, answer) for role, answer in answers.items()}
        rows.append(row)
    return rows
