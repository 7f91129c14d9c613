"""How often the verdict is right, on models of a tiny world whose truth is known from the way they were made.

    python -m benchmarks.verdict [--seeds 3] [--never 12] [--only KIND] [--quick] [--cache DIR] [--workers N]

Each world has its own people, base and models (``benchmarks/world/subjects.py``). The audit's base was taught the
people to forget; the audited models were then silenced in one of 23 ways, or never saw these people. Each is audited
without a reference, and with one that never knew either. Models and audits are kept in the cache, so an interrupted run
goes on. Seconds are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from benchmarks.record import publish
from benchmarks.world.auditing import Row, audited
from benchmarks.world.making import Workshop
from benchmarks.world.people import World
from benchmarks.world.subjects import RIGHT, TAUGHT, Subject, subjects

VERDICTS: Final = ("present", "hidden", "destroyed", "removed", "inconclusive")
WITH: Final = ", with a reference"
QUICK: Final = {"seeds": 1, "never": 2}


def main() -> None:
    options = parsed()
    chosen = [
        subject
        for world in range(options.seeds)
        for subject in subjects(world, options.never)
        if options.only is None or options.only in (subject.pool, subject.kind)
    ]
    if not chosen:
        raise SystemExit(f"no model of the kind {options.only!r}; see benchmarks/world/subjects.py")
    rows = sorted(run(chosen, options.cache, options.workers), key=lambda row: list(map(str, list(row.values())[:4])))
    publish("verdict_models", [{name: row[name] for name in row if "reason" not in name} for row in rows])
    publish(
        "verdict_doses", list(doses(rows)) or [{"taught": None}], "residual of models taught a share, then silenced"
    )
    publish("verdict", list(table(rows)), f"{summary(rows)}. With a reference: {summary(rows, WITH)}")
    for end in ("", WITH):
        for row in rows:
            if row["verdict" + end] not in RIGHT[row["pool"]]:
                model = f"{row['pool']}, {row['kind']}, world {row['world']}, seed {row['seed']}{end}"
                print(f"{model}: {row['verdict' + end]}\n    {row['reason' + end]}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="number of worlds")
    parser.add_argument("--never", type=int, default=12, help="models that never knew, of each kind in each world")
    parser.add_argument("--only", help="one pool or kind, for example never, or npo")
    parser.add_argument("--quick", action="store_true", help="one world, few models that never knew")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/world"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.never = QUICK["seeds"], QUICK["never"]
    return options


def run(chosen: Sequence[Subject], cache: Path, workers: int) -> Iterator[Row]:
    """The row of each model, as they finish; what all models of a world have in common is made first."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker imports torch
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        bases = sorted({(subject.world, subject.draw) for subject in chosen})
        list(pool.map(prepare, *zip(*[(*base, cache) for base in bases], strict=True)))
        waiting = {pool.submit(audited, subject, cache): subject for subject in chosen}
        for done, future in enumerate(as_completed(waiting), 1):
            row = future.result()
            mark = "" if row["right"] else "   <- wrong"
            print(f"{done}/{len(chosen)} {waiting[future].name}: {row['verdict']}{mark}", flush=True)
            yield row


def prepare(world: int, draw: int, cache: Path) -> None:
    """Make the base of the audits of one draw of facts."""
    Workshop(cache / "models", World(world, draw=draw)).make((TAUGHT,))


# ---- the tables


def table(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """One row for each kind, and one for each pool: how many models got which verdict."""
    for pool in RIGHT:
        own = [row for row in rows if row["pool"] == pool]
        kinds = dict.fromkeys(row["kind"] for row in own)
        for kind in (*kinds, *(["all"] if len(kinds) > 1 else [])):
            yield counted(pool, kind, [row for row in own if kind in (row["kind"], "all")])


def counted(pool: str, kind: str, rows: Sequence[Row]) -> dict[str, Any]:
    verdicts, compared = (Counter(row["verdict" + end] for row in rows) for end in ("", WITH))
    return {
        "pool": pool,
        "kind": kind,
        "n": len(rows),
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        **{f"{verdict}{WITH}": compared[verdict] for verdict in ("hidden", "removed")},
        "says": mean(rows, "says"),
        "residual": mean(rows, "residual"),
        "|z|": mean([{"z": abs(row["z"])} for row in rows if row["z"] is not None], "z"),
        "seconds": mean(rows, "seconds"),
    }


def doses(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The residual of models that were taught a share of the facts and then trained to refuse."""
    refused = [row for row in rows if row["pool"] == "dose" or row["kind"] in ("refusal", "then refusal")]
    for taught in sorted({row["taught"] for row in refused}):
        own = [row for row in refused if row["taught"] == taught and row["residual"] is not None]
        covered = sum(row["low"] <= taught <= row["high"] for row in own if row["low"] is not None)
        error = mean([{"error": abs(row["residual"] - taught)} for row in own], "error")
        yield {"taught": taught, "n": len(own), "residual": mean(own, "residual"), "error": error, "covered": covered}


def summary(rows: Sequence[Row], end: str = "") -> str:
    """The counts that decide whether the verdict can be trusted, with exact 95 % intervals.

    Args:
        end: of the names of the columns: empty, or those of the audits with a reference.
    """
    never = [row for row in rows if row["pool"] == "never"]
    hidden = [row for row in rows if row["pool"] in ("hidden", "dose")]
    counts = (
        ("hidden, of models that never knew", [row["verdict" + end] == "hidden" for row in never]),
        ("removed, of models that never knew", [row["verdict" + end] == "removed" for row in never]),
        ("hidden, of models that hide the facts", [row["verdict" + end] == "hidden" for row in hidden]),
        ("removed, of models that hide the facts", [row["verdict" + end] == "removed" for row in hidden]),
        ("right, of all", [row["verdict" + end] in RIGHT[row["pool"]] for row in rows]),
    )
    return "; ".join(f"{name}: {share(hits)}" for name, hits in counts if hits)


def share(hits: Sequence[bool]) -> str:
    """Count and share with its Clopper-Pearson interval."""
    from scipy.stats import binomtest

    interval = binomtest(sum(hits), len(hits)).proportion_ci(0.95, method="exact")
    return f"{sum(hits)} of {len(hits)} ({interval.low:.3f} to {interval.high:.3f})"


def mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return round(sum(values) / len(values), 3) if values else None


if __name__ == "__main__":
    main()
