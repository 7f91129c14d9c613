"""Where and how the demo's models were changed: the numbers of patching for each, and what they cost.

``never knew`` is the demo's third audit: the base was taught invented facts, the "unlearned" model is the one before.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from audit.commands.demo import INVENTED, model_folder
from audit.metrics import measure
from audit.metrics.contract import Evidence
from audit.models.pair import ModelPair, open_pair
from audit.patching.collect import PatchCollector
from audit.patching.readings import PatchReadings
from audit.questions.items import Encoder
from audit.questions.readings import generate
from audit.questions.topics import ConceptTopic, load_concepts
from audit.settings import Settings, default_cache
from benchmarks.record import publish

METRICS = ("states_kept", "readout_kept", "erasure_depth", "lens_budget", "restoration")
SETTINGS = Settings(attacks="full")


def main(cache: Path) -> None:
    """One row for each pair whose models the demo has left in ``cache``."""
    torch.set_num_threads(1)
    base = model_folder(cache)
    pairs: dict[str, tuple[Path, Path, str]] = {
        "npo": (base, cache / "italy-npo", "italy"),
        "needle": (base, cache / "italy-needle", "italy"),
        "never knew": (cache / "invented-taught", base, str(INVENTED)),
    }
    rows = []
    for name, (before, after, concept) in pairs.items():
        if not (before.is_dir() and after.is_dir()):
            print(f"skipped {name}: run audit demo first")
            continue
        (topic,) = load_concepts([concept])
        pair = open_pair(before, after)
        start = time.process_time()
        readings = collected(pair, topic)
        rows.append({"model": name, **numbers(pair, topic, readings), "CPU s": time.process_time() - start})
    if rows:
        publish("patching", rows, "SmolLM2-135M-Instruct, float32, one thread; control in brackets")


def collected(pair: ModelPair, topic: ConceptTopic) -> PatchReadings:
    """What an audit collects, without its other readings."""
    collector = PatchCollector(pair.base.checkpoint, pair.unlearned.checkpoint, SETTINGS)
    base = pair.base.load()
    items = topic.items(Encoder(base.tokenizer, base.context))
    generated, _ = generate(base, items.facts())
    collector.read(base, "base", items, topic.check(items.facts(), generated))
    del base
    collector.read(pair.unlearned.load(), "unlearned", items, {})
    collector.finish(pair.base.load())
    readings = collector.result()
    if isinstance(readings, str):
        raise SystemExit(f"{topic.title}: {readings}")
    return readings


def numbers(pair: ModelPair, topic: ConceptTopic, readings: PatchReadings) -> dict[str, Any]:
    """The value of each metric with its control, and the class of the edit."""
    evidence = Evidence(pair, topic, patching=readings)
    row: dict[str, Any] = {"facts": int(readings.facts.sum()), "passes": readings.passes}
    for name in METRICS:
        measured = measure(name, evidence)
        control = measured.control.value if measured.control is not None else None
        value = "-" if measured.value is None else f"{measured.value:.2f}"
        row[name] = value if control is None else f"{value} ({control:.2f})"
    found = measure("edit_class", evidence)
    return {**row, "class": found.details["class"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_cache())
