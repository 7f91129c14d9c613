"""The auditor's exam: how often its verdict is right on models whose truth is known, and how rival metrics do there.

    python -m benchmarks.exam [--worlds 20 21] [--never 2] [--scored 1] [--calibrate] [--only KIND] [--device cuda]

Each world has its own people, base and models (``benchmarks/world/subjects.py``). Worlds below 20 are those on which
the audit was built; ``--calibrate`` fits the verdict's thresholds on them and counts its errors on the others. Every
model is audited blind, without a reference and with a model that never knew; in the first worlds the metrics in
``benchmarks/exam/rivals`` read the models of the first draw of facts too. Models, audits and scores are kept in the
cache, so an interrupted exam goes on. Two worlds take some 80 minutes of the processor. Seconds are of the processor,
on one thread.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from audit.calibration import calibration
from benchmarks.exam.calibration import Candidate, Judged, best, candidates, save
from benchmarks.exam.designs import designs
from benchmarks.exam.locked import locked_subjects
from benchmarks.exam.tables import (
    HIDES,
    NEVER,
    areas,
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
from benchmarks.world.auditing import WITH, finding_of
from benchmarks.world.subjects import Subject, subjects

FIRST_TEST: Final = 20
"""The first world on which nothing was chosen."""


def main() -> None:
    options = parsed()
    chosen = [
        subject
        for world in options.worlds
        for subject in (*subjects(world, options.never), *locked_subjects(world))
        if options.only is None or options.only in (subject.pool, subject.kind)
    ]
    if not chosen:
        raise SystemExit(f"no model of the kind {options.only!r}; see benchmarks/world/subjects.py")
    rows = sorted(run(chosen, options), key=lambda row: [str(row[name]) for name in KEY])
    training, tested = ([row for row in rows if (row["world"] < FIRST_TEST) == wanted] for wanted in (True, False))
    fitted = fit(training, options.cache) if training else None
    if tested:
        report(tested, training, options)
    if options.calibrate:
        calibrate(fitted, training, tested)


def fit(rows: Sequence[Row], cache: Path) -> Candidate | None:
    """The thresholds that training worlds choose."""
    judged = [Judged(row["pool"], finding_of(row[name], cache)) for row in rows for name in ("audit", f"audit{WITH}")]
    found = list(candidates(judged))
    publish("exam_thresholds", [asdict(each) for each in found], told(rows))
    publish("exam_training", list(summary(rows)), told(rows))
    for line in errors(rows):
        print(line)
    return best(found)


def report(rows: Sequence[Row], training: Sequence[Row], options: argparse.Namespace) -> None:
    """Print and write the tables of the test worlds."""
    kept = [name for name in rows[0] if "audit" not in name and "reason" not in name]
    write("exam_models", [{name: row[name] for name in (*kept, *READ) if name in row} for row in rows], told(rows))
    for name, table in TABLES.items():
        publish(f"exam_{name}", list(table(rows)) or [{"models": 0}], told(rows))
    publish("exam", list(summary(rows)), told(rows))
    for line in errors(rows):
        print(line)
    publish("exam_designs", compared(rows, training or rows, options.cache), told(rows))


def calibrate(fitted: Candidate | None, training: Sequence[Row], tested: Sequence[Row]) -> None:
    """Write ``audit/calibration.json``: thresholds of the training worlds, error rates of the others."""
    if fitted is None:
        raise SystemExit("no thresholds: none keeps the conditions, or no training world was run; nothing is written")
    current = fitted.thresholds == calibration().thresholds
    save(fitted, training, tested if current else [])
    if not current:
        print("The thresholds are new; run the same command again for the error rates of verdicts by them.")


def told(rows: Sequence[Row]) -> str:
    """What made a table."""
    worlds = ", ".join(map(str, sorted({row["world"] for row in rows})))
    given = " ".join(sys.argv[1:])
    command = re.sub(r" ?--(cache|workers)[ =]\S+", "", given).strip()  # of one machine
    return f"worlds {worlds}, {len(rows)} models: python -m benchmarks.exam {command}"


def compared(rows: Sequence[Row], training: Sequence[Row], cache: Path) -> list[Row]:
    """The designs of the verdict on the models that hide the facts and those that do not hold them."""
    found = [
        [
            (finding_of(row["audit"], cache), finding_of(row[f"audit{WITH}"], cache), row["pool"] in HIDES)
            for row in chosen
            if row["pool"] in (*HIDES, *NEVER)
        ]
        for chosen in (training, rows)
    ]
    return [*designs(*found)]


KEY: Final = ("pool", "kind", "world", "draw", "seed")
READ: Final = ("scores", "recovered")
"""Of the row of a model that the rival metrics read."""
TABLES: Final = {
    "verdicts": verdicts,
    "doses": doses,
    "metrics": graded_metrics,
    "separation": separation,
    "area": areas,
    "screen": screens,
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exam", description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[20, 21], help="seeds of the worlds")
    parser.add_argument("--never", type=int, default=2, help="models that never knew, of each kind in each world")
    parser.add_argument("--scored", type=int, default=1, help="worlds whose models the rival metrics read")
    parser.add_argument("--calibrate", action="store_true", help="write audit/calibration.json")
    parser.add_argument("--only", help="one pool or kind, for example never, or npo")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/world"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", help="of the audits; workers share it")
    return parser.parse_args()


def run(chosen: Sequence[Subject], options: argparse.Namespace) -> Iterator[Row]:
    """The row of each model, as they finish; what all models of a world have in common is made first."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker imports torch
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cache, tests = options.cache, [world for world in options.worlds if world >= FIRST_TEST]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        bases = dict.fromkeys((subject.world, subject.draw, subject.base) for subject in chosen)
        list(pool.map(prepare, *zip(*[(*base, cache) for base in bases], strict=True)))
        scored = {subject for subject in chosen if subject.draw == 0 and subject.world in tests[: options.scored]}
        waiting = {
            pool.submit(examined, subject, cache, subject in scored, options.device): subject for subject in chosen
        }
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                row = future.result()
                mark = "   <- wrong" if row["right"] is False else ""
                print(f"{done}/{len(chosen)} {waiting[future].name}: {row['verdict']}{mark}", flush=True)
                yield row
        finally:  # after an error, at once
            pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    main()
