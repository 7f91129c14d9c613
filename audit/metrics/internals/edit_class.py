"""How the answers were changed, as a class in words: no change, noise, bypass, edit, absence or mixed.

``summary`` is the sentence. The rules and their thresholds are in ``audit.patching.edit_class``; they are not
calibrated, and no verdict rests on them.
"""

from __future__ import annotations

from dataclasses import asdict

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, counts, patching_of
from audit.patching.edit_class import ALL_RESTORED, CARRIED, DAMAGED, FAR, NEAR, READ, RESTORED, WRITTEN, edit_class
from audit.result import Measured

__all__ = ["NEEDS"]

TITLE = "Class of the edit"


def measure(evidence: Evidence) -> Measured:
    readings = patching_of(evidence)
    numbers = readings.edit_numbers("unlearned")
    found = edit_class(numbers)
    return Measured(
        value=found.value,
        summary=f"{found.sentence} (Class: {found.name}; thresholds not calibrated.)",
        unit=f"the number that decides for {found.name!r}",
        direction="none",
        n=int(readings.facts.sum()),
        details={
            **counts(readings),
            "class": found.name,
            "calibrated": False,
            **asdict(numbers),
            "thresholds": {
                "shift": FAR,
                "readout": READ,
                "written": WRITTEN,
                "restored": RESTORED,
                "all_restored": ALL_RESTORED,
                "carried": CARRIED,
                "moved": NEAR,
                "damage": DAMAGED,
            },
        },
    )
