"""Needle (training a concept's value vectors) against zeroing the same vectors, at no more collateral.

The neurons are the set that ``audit find --validate`` chose (``benchmarks/causal.py``). Numbers are of the questions
that were used neither to choose neurons nor to train. Needle's strength is the one that reaches the goal for most
*other* concepts, so that no concept's own questions choose it. Each concept is cached under ``audit-report/needle/``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from audit.statistics import bootstrap_interval
from benchmarks.causal import validated
from benchmarks.record import publish

if TYPE_CHECKING:
    from audit.vectors.edit import Dose

CONCEPTS = ("italy", "france", "dogs", "music", "months", "diabetes", "germany", "chemistry", "planets", "computers")
CACHE = Path("audit-report/needle")
STRENGTHS = tuple(tenth / 10 for tenth in range(1, 11))
GOAL = 2.0


def main(names: Sequence[str]) -> None:
    """One row a concept, at least two of them."""
    documents = {name: measured(name) for name in names or CONCEPTS}
    rows = []
    for name, document in documents.items():
        others = [other for title, other in documents.items() if title != name]
        rows.append(row(name, document, usual(others)))
    publish("needle", rows, notes(rows))


def notes(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many concepts reach the goal, and the mean over all with intervals over concepts."""
    known = [row for row in rows if row["times"] is not None]
    count = sum(bool(row["reached"]) for row in rows)
    times = np.log([row["times"] for row in known])
    cost = np.array([row["needle: unrelated"] - row["zero: unrelated"] for row in known])
    (low, high), (least, most) = (bootstrap_interval(values, seed=0) or (np.nan, np.nan) for values in (times, cost))
    return (
        f"{count} of {len(rows)} concepts: needle lowers answers {GOAL:g} times as far as zeroing, at no more cost; "
        f"together {np.exp(times.mean()):.2g} times as far (geometric mean, {np.exp(low):.2g} to {np.exp(high):.2g}), "
        f"unrelated answers falling {-cost.mean():.3f} nats less ({-most:.3f} to {-least:.3f})"
    )


def measured(name: str) -> dict[str, Any]:
    """Both edits of one concept's set, cached or made now."""
    cached = CACHE / f"{name}.json"
    if not cached.is_file():
        start = time.perf_counter()
        made = edited(name) | {"seconds": time.perf_counter() - start}
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps(made, indent=1), encoding="utf-8")
    document: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
    return document


def edited(name: str) -> dict[str, Any]:
    from audit.commands.demo import model_folder
    from audit.models.opening import open_model
    from audit.progress import SILENT
    from audit.settings import default_cache
    from audit.vectors.edit import EditOptions, plan_edit
    from concepts.concept import load_concept
    from concepts.neuron import Neuron

    folder = model_folder(default_cache())
    chosen = (validated(name, folder).get("effect") or {}).get("set")
    if chosen is None:
        return {"vectors": 0}
    options = EditOptions([Neuron(vector["layer"], vector["neuron"]) for vector in chosen["vectors"]])
    opened, concept = open_model(folder), load_concept(name)
    model = opened.load()
    (zero,) = plan_edit(opened, model, concept, "zero", options).doses([1.0], SILENT)
    needle = plan_edit(opened, model, concept, "needle", options).doses(STRENGTHS, SILENT)
    return {
        "vectors": len(options.neurons),
        "specific": chosen["specific"],
        "zero": both(zero),
        "needle": [both(dose) for dose in needle],
    }


def both(dose: Dose) -> dict[str, Any]:
    """The effect of one strength on both splits."""
    return {
        "strength": dose.strength,
        "choosing": dose.choosing.record().model_dump(mode="json"),
        "held_out": dose.held_out.record().model_dump(mode="json"),
    }


def usual(documents: Sequence[Mapping[str, Any]]) -> float:
    """The strength that reaches the goal for most of ``documents``; the middle one where several do."""
    counts = [sum(reached(document)[number] for document in documents) for number in range(len(STRENGTHS))]
    return median_low(strength for strength, count in zip(STRENGTHS, counts, strict=True) if count == max(counts))


def reached(document: Mapping[str, Any]) -> list[bool]:
    """Whether each strength reaches the goal on the held-out questions."""
    if "zero" not in document:
        return [False] * len(STRENGTHS)
    target, unrelated = held_out(document["zero"])
    falls = [held_out(dose) for dose in document["needle"]]
    return [fall >= GOAL * target and cost <= max(unrelated, 0.0) for fall, cost in falls]


def held_out(dose: Mapping[str, Any]) -> tuple[float, float]:
    """Fall of the concept's answers and of unrelated ones, nats per token."""
    return dose["held_out"]["target"]["value"], dose["held_out"]["unrelated"]["value"]


def row(name: str, document: Mapping[str, Any], strength: float) -> dict[str, Any]:
    """Numbers of the held-out questions at ``strength``, and at which strengths the goal is reached."""
    cells: dict[str, Any] = {"concept": name, "vectors": document["vectors"], "strength": strength}
    number = STRENGTHS.index(strength)
    edits = {"zero": document.get("zero"), "needle": document["needle"][number] if "zero" in document else None}
    for edit, dose in edits.items():
        target, unrelated = held_out(dose) if dose else (None, None)
        cells |= {f"{edit}: target": target, f"{edit}: unrelated": unrelated}
    goals = reached(document)
    return cells | {
        "times": cells["needle: target"] / cells["zero: target"] if edits["zero"] else None,
        "reached": goals[number],
        "reached at": ", ".join(f"{each:g}" for each, goal in zip(STRENGTHS, goals, strict=True) if goal),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
