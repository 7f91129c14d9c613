"""``audit demo`` from an empty cache: time, processor time, peak memory and the three verdicts.

    python -m benchmarks.demo [--ways both|beside|after]

*Beside*: the third audit in a second process, as the demo does where memory allows; *after*: all in one process on all
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.record import publish

ROOT: Final = Path(__file__).resolve().parent.parent
WAYS: Final = {
    "beside": "import cli; cli.main()",
    "after": "from audit.commands import demo; demo.MEMORY = 2**62; import cli; cli.main()",
}
"""Way -> program; more memory than any machine has is never there for two."""
PAUSE: Final = 0.5
"""Seconds between two readings of the memory."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--ways", choices=("both", *WAYS), default="both")
    chosen = parser.parse_args().ways
    publish(
        "demo", [row(way) for way in WAYS if chosen in ("both", way)], "SmolLM2-135M-Instruct, concept italy, seed 0"
    )


def row(way: str) -> dict[str, Any]:
    """One run in an empty folder; memory is that of all its processes together, pages that they share counted twice."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
        begun, used = time.perf_counter(), _processor_seconds()
        process = subprocess.Popen(
            [sys.executable, "-c", WAYS[way], "demo", "--quiet", "--json"],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(PAUSE)
        if process.returncode:
            raise SystemExit(f"audit demo ended with {process.returncode}")
        return {
            "way": way,
            "seconds": time.perf_counter() - begun,
            "CPU s": _processor_seconds() - used,
            "peak GiB": peak / 2**30,
            **{
                file.parent.name: _verdict(file)
                for file in sorted(Path(folder).glob("audit-report/demo/*/result.json"))
            },
        }


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children; 0 where it has ended."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _verdict(file: Path) -> str:
    verdict: str = json.loads(file.read_text(encoding="utf-8"))["findings"][0]["verdict"]
    return verdict


if __name__ == "__main__":
    main()
