"""Terminal text of ``audit verify``."""

from __future__ import annotations

from typing import Final

from audit.result import Difference, Verification
from reports.formatting import shorten, visible
from reports.text.layout import blocks, labelled_rows

LONGEST_VALUE: Final = 200
"""Characters shown of a recorded value that does not hold; the JSON output has all of them."""


def render_verification(verification: Verification) -> str:
    """The steps that held, then the first difference."""
    rows = [("Verified", step) for step in verification.verified]
    if verification.difference is not None:
        rows.append(("Difference", _difference(verification.difference)))
    rows += [("Note", note) for note in verification.notes]
    state = "holds" if verification.holds else "does not hold"
    return blocks([[f"{visible(verification.result)}: {state}", *labelled_rows(rows)]])


def _difference(difference: Difference) -> str:
    recorded, present = (shorten(str(value), LONGEST_VALUE) for value in (difference.recorded, difference.found))
    return f"{difference.field}: recorded {recorded}, found {present}"
