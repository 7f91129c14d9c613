"""Seconds until ``audit --help`` and ``audit view`` of one result are done, as whole processes, and what they load."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import publish

RUNS = 9
GOAL_SECONDS = 0.3
PROBE = (
    "import sys, cli; sys.argv = {argv!r}\ntry: cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
)


def main() -> None:
    """Medians over several runs after one warm-up."""
    from tests.sample_result import sample

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        sample().write(result)
        page = str(Path(folder) / "page.html")
        rows = [
            measure("audit --help", ["audit", "--help"]),
            measure("audit view RESULT --output PAGE", ["audit", "view", str(result), "--output", page]),
        ]
        notes = f"result.json of {result.stat().st_size / 1e3:.0f} kB"
    publish("startup", rows, notes)


def measure(name: str, argv: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE.format(argv=argv)]
    seconds = [once(command) for _ in range(RUNS + 1)][1:]
    return {
        "command": name,
        "median s": median(seconds),
        "min s": min(seconds),
        "max s": max(seconds),
        "goal s": GOAL_SECONDS,
        "reached": median(seconds) <= GOAL_SECONDS,
        "torch loaded": False,
    }


def once(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
