"""The audit on record still reads and judges what it did when the exam was counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.calibration import VERSION
from benchmarks.exam.recorded import READ, audits

CLOSE = 0.01
"""Another processor adds in another order, and training makes more of it."""
CHANGED = (
    f"An audit reads or judges something else than in version {VERSION}. If that is meant, run "
    "`python -m benchmarks.exam.recorded`, raise VERSION in audit/calibration.py and count the exam again."
)


def test_an_audit_of_the_same_models_reads_the_same(tmp_path: Path) -> None:
    recorded, read = json.loads(READ.read_text(encoding="utf-8")), audits(tmp_path)
    assert recorded.keys() == read.keys()
    for name in recorded:
        assert recorded[name].keys() == read[name].keys(), CHANGED
        for each, expected in recorded[name].items():
            close = expected if isinstance(expected, str) else pytest.approx(expected, abs=CLOSE)
            assert read[name][each] == close, f"{name}, {each}. {CHANGED}"
