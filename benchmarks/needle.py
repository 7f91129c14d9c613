"""Training a concept's value vectors (needle) beside zeroing the same ones, at no more collateral.

The rows are the set that ``audit find --validate`` chose (``benchmarks/causal.py``). Needle's strength is the one with
the largest effect on the choosing questions among those that cost unrelated ones there no more than zeroing does; what
is reported is the other half of the questions. Each concept is kept under ``audit-report/needle/``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.causal import found as validated
from benchmarks.record import publish

CONCEPTS = ("italy", "france", "dogs", "music", "months", "diabetes", "germany", "chemistry", "planets", "computers")
KEPT = Path("audit-report/needle")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
GOAL = 2.0


def main(names: Sequence[str]) -> None:
    """One row a concept."""
    rows = [row(name, measured(name)) for name in names or CONCEPTS]
    reached = sum(bool(row["reached"]) for row in rows)
    publish(
        "needle", rows, f"{reached} of {len(rows)} concepts: needle lowers answers {GOAL:g} times as far as zeroing"
    )


def measured(name: str) -> dict[str, Any]:
    """Both edits of one concept's set, kept or made now."""
    kept = KEPT / f"{name}.json"
    if not kept.is_file():
        start = time.perf_counter()
        made = edited(name) | {"seconds": time.perf_counter() - start}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(made, indent=1), encoding="utf-8")
    document: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return document


def edited(name: str) -> dict[str, Any]:
    from audit.ablation import Edit, open_subject
    from audit.demo import default_cache, model_folder
    from audit.progress import SILENT
    from audit.settings import Settings
    from audit.validation import Spot
    from concepts.concept import load_concept

    folder = model_folder(default_cache())
    chosen = (validated(name, folder).get("effect") or {}).get("set")
    if chosen is None:
        return {"vectors": 0}
    spots = [Spot(vector["layer"], vector["neuron"]) for vector in chosen["vectors"]]
    subject, concept = open_subject(folder, None, None, Settings(), SILENT), load_concept(name)
    (zero,) = Edit.plan(subject, concept, "zero", spots, 0, False, False, SILENT).doses([1.0])
    needle = Edit.plan(subject, concept, "needle", spots, 0, False, False, SILENT).doses(STRENGTHS)
    allowed = [dose for dose in needle if dose.choosing.collateral <= max(zero.choosing.collateral, 0.0)]
    best = max(allowed or needle[:1], key=lambda dose: dose.choosing.on_target)
    return {
        "vectors": len(spots),
        "specific": chosen["specific"],
        "zero": zero.held_out.as_json(),
        "needle": best.held_out.as_json(),
        "strength": best.strength,
        "within": bool(allowed),
        "doses": [{"strength": dose.strength, "held_out": dose.held_out.as_json()} for dose in needle],
    }


def row(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Numbers of the held-out questions."""
    cells: dict[str, Any] = {"concept": name, "vectors": document["vectors"], "strength": document.get("strength")}
    for edit in ("zero", "needle"):
        effect = document.get(edit)
        cells |= {
            f"{edit}: target": effect["target"]["value"] if effect else None,
            f"{edit}: unrelated": effect["unrelated"]["value"] if effect else None,
        }
    if "zero" not in document:
        return cells | {"times": None, "reached": False}
    times = cells["needle: target"] / cells["zero: target"]
    within = cells["needle: unrelated"] <= max(cells["zero: unrelated"], 0.0)
    return cells | {"times": times, "reached": times >= GOAL and within}


if __name__ == "__main__":
    main(sys.argv[1:])
