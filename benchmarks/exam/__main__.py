"""The auditor's exam: how often its verdict is right on models whose truth is known, and how rival metrics do there.

    python -m benchmarks.exam [--worlds 10 11 12] [--never 10] [--only KIND] [--quick] [--cache DIR] [--workers N]

Each world has its own people, base and models (``benchmarks/world/subjects.py``). Worlds below 10 are those on which
the audit was built and its margins were chosen; the exam reports on others. Every model is audited blind, without a
reference and with a model that never knew, and scored by the metrics in ``benchmarks/exam/rivals``. Models, audits and
scores are kept in the cache, so an interrupted exam goes on. Seconds are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks.exam.calibration import Judged, candidates
from benchmarks.exam.designs import designs
from benchmarks.exam.tables import (
    HIDES,
    NEVER,
    WITH,
    doses,
    errors,
    graded_metrics,
    screens,
    separation,
    summary,
    verdicts,
)
from benchmarks.exam.tiny import Row, examined, prepare
from benchmarks.record import publish, write
from benchmarks.world.auditing import finding_of
from benchmarks.world.subjects import Subject, subjects

FIRST_TEST: Final = 10
"""The first world on which nothing was chosen."""
QUICK: Final = {"worlds": [FIRST_TEST], "never": 2}


def main() -> None:
    options = parsed()
    chosen = [
        subject
        for world in options.worlds
        for subject in subjects(world, options.never)
        if options.only is None or options.only in (subject.pool, subject.kind)
    ]
    if not chosen:
        raise SystemExit(f"no model of the kind {options.only!r}; see benchmarks/world/subjects.py")
    rows = sorted(run(chosen, options.cache, options.workers), key=lambda row: [str(row[name]) for name in KEY])
    told = f"worlds {', '.join(map(str, options.worlds))}"
    kept = [name for name in rows[0] if "audit" not in name and "reason" not in name]
    write("exam_models", [{name: row[name] for name in kept} for row in rows], told)
    for name, table in TABLES.items():
        publish(f"exam_{name}", list(table(rows)) or [{"models": 0}], told)
    publish("exam", list(summary(rows)), told)
    for line in errors(rows):
        print(line)
    publish("exam_designs", compared(rows, options.cache), told)
    training = [row for row in rows if row["world"] < FIRST_TEST]
    if training:
        judged = [Judged(row["pool"], finding_of(row["audit"], options.cache)) for row in training]
        publish("exam_margins", [asdict(each) for each in candidates(judged)], told)


def compared(rows: Sequence[Row], cache: Path) -> list[Row]:
    """The designs of the verdict on the models that hide the facts and those that do not hold them."""
    chosen = [row for row in rows if row["pool"] in (*HIDES, *NEVER)]
    found = [
        (
            finding_of(row["audit"], cache),
            finding_of(row[f"audit{WITH}"], cache),
            row["pool"] in HIDES,
            row["world"] < FIRST_TEST,
        )
        for row in chosen
    ]
    training, tested = ([each[:3] for each in found if each[3] == wanted] for wanted in (True, False))
    return [*designs(training, tested or training)]


KEY: Final = ("pool", "kind", "world", "draw", "seed")
TABLES: Final = {
    "verdicts": verdicts,
    "doses": doses,
    "metrics": graded_metrics,
    "separation": separation,
    "screen": screens,
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exam", description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[10, 11, 12], help="seeds of the worlds")
    parser.add_argument("--never", type=int, default=10, help="models that never knew, of each kind in each world")
    parser.add_argument("--only", help="one pool or kind, for example never, or npo")
    parser.add_argument("--quick", action="store_true", help="one world, few models that never knew")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/world"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.quick:
        options.worlds, options.never = QUICK["worlds"], QUICK["never"]
    return options


def run(chosen: Sequence[Subject], cache: Path, workers: int) -> Iterator[Row]:
    """The row of each model, as they finish; what all models of a world have in common is made first."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker imports torch
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        bases = dict.fromkeys((subject.world, subject.draw, subject.base) for subject in chosen)
        list(pool.map(prepare, *zip(*[(*base, cache) for base in bases], strict=True)))
        waiting = {pool.submit(examined, subject, cache, subject.draw == 0): subject for subject in chosen}
        for done, future in enumerate(as_completed(waiting), 1):
            row = future.result()
            mark = "   <- wrong" if row["right"] is False else ""
            print(f"{done}/{len(chosen)} {waiting[future].name}: {row['verdict']}{mark}", flush=True)
            yield row


if __name__ == "__main__":
    main()
