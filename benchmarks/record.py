"""Shared by all benchmarks: publish a table on the terminal and as a JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The properties of this machine that affect the numbers."""
    return {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.system()}


def publish(name: str, rows: Sequence[dict[str, Any]], notes: str = "") -> None:
    """Print ``rows`` (equal keys) as a table and write them to ``results/NAME.json``."""
    show(name, rows, notes)
    write(name, rows, notes)


def show(name: str, rows: Sequence[dict[str, Any]], notes: str = "") -> None:
    """Print ``rows`` (equal keys) as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, caption=notes or None)
    for key in rows[0]:
        table.add_column(key)
    for row in rows:
        table.add_row(*(shown(value) for value in row.values()))
    Console(file=sys.stdout, width=140).print(table)


def write(name: str, rows: Sequence[dict[str, Any]], notes: str = "") -> None:
    """Write ``rows`` to ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    document = {"benchmark": name, "machine": machine(), "notes": notes, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def folders(*names: str) -> list[Path]:
    """The folders on the command line, in the order of ``names``; skips the benchmark if one is missing."""
    given = sys.argv[1 : len(names) + 1]
    if len(given) < len(names):
        print(f"skipped, it needs data: python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(names)}")
        raise SystemExit
    return [Path(folder) for folder in given]
