"""For every concept of the library: the vectors that carry it in SmolLM2, by ``audit find --validate``.

Vectors are chosen on half of the questions that the model answers; every number is from the other half. Each concept's
document is cached under ``audit-report/causal/``, so that an interrupted run continues.

    python -m benchmarks.causal [NAME ...] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import publish

CACHE = Path("audit-report/causal")
GOAL = (
    "a specific set: p < 0.05 over at least 8 held-out questions, 5 times the effect on unrelated ones, and 0.05 nats "
    "more specific than its control set"
)


def main() -> None:
    """One row a concept, and how many of them have a specific set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.causal", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="concepts of the library; default: all")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    from audit.commands.demo import model_folder
    from audit.settings import default_cache
    from concepts.concept import library

    model = model_folder(default_cache())
    rows = []
    for name in options.names or library():
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(row(name, validated(name, model, options.device)))
    reached = sum(row["specific set"] for row in rows)
    publish("causal", rows, f"{reached} of {len(rows)} concepts have {GOAL}")


def validated(name: str, model: Path, device: str = "cpu") -> dict[str, Any]:
    """The document of ``audit find --validate --json``, cached or made now."""
    from audit.commands.find import FindOptions, find
    from audit.errors import AuditError
    from audit.request import RunContext
    from audit.settings import Settings

    cached = CACHE / f"{name}.json"
    if cached.is_file():
        document: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
        return document
    start = time.perf_counter()
    try:
        context = RunContext(Settings(device=device))
        document = find(model, name, FindOptions(validate=True), context=context).model_dump(mode="json")
    except AuditError as error:
        document = {"error": str(error)}
    document["seconds"] = time.perf_counter() - start
    document["device"] = torch.cuda.get_device_name() if device == "cuda" else device
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return document


def row(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """One row of the table; numbers are of the held-out questions."""
    chosen = (document.get("effect") or {}).get("set")
    cells: dict[str, Any] = {"concept": name, "questions": None, "vectors": None, "writing its words": None}
    cells |= {"target": None, "unrelated": None, "ratio": None, "low": None, "high": None, "control": None}
    cells |= {"p": None, "more specific than its control by": None}
    cells |= {"of the way to the floor": None, "single vectors that carry it": None, "specific set": False}
    cells |= {"seconds": document["seconds"], "device": document["device"]}
    if chosen is None:
        return cells
    effect = chosen["held_out"]
    low, high = effect["ratio"]["interval"] or (None, None)
    return cells | {
        "questions": effect["questions"]["target"],
        "vectors": len(chosen["vectors"]),
        "writing its words": sum(vector["coherent"] for vector in chosen["vectors"]),
        "target": effect["target"]["value"],
        "unrelated": effect["unrelated"]["value"],
        "ratio": effect["ratio"]["value"],
        "low": low,
        "high": high,
        "control": chosen["control"]["target"]["value"],
        "p": chosen["p_value"],
        "more specific than its control by": chosen["excess"],
        "of the way to the floor": chosen["share_of_the_way_to_the_floor"],
        "single vectors that carry it": sum(
            bool(vector["effect"] and vector["effect"]["carries"]) for vector in document["vectors"]
        ),
        "specific set": chosen["specific"],
    }


if __name__ == "__main__":
    main()
