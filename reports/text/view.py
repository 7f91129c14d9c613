"""Terminal text of ``audit view``: the results on disk, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.formatting import moment, shorten
from reports.text.layout import encodable

if TYPE_CHECKING:
    from reports.stored_results import Row


def render_listing(rows: Sequence[Row]) -> str:
    """When each result was made, its path, and its verdicts or the reason why it cannot be read."""
    if not rows:
        return "No results here. Run audit compare first."
    lines = []
    for row in rows:
        lines.append(f"{moment(row.result.run.started) if row.result else 'unreadable':<24} {shorten(str(row.path))}")
        if row.error is not None:
            lines.append(f"    {shorten(row.error, 400)}")
        for concept, verdict, kind in row.verdicts:
            lines.append(f"    {f'{verdict}, {kind}' if kind else verdict:<20} {concept}")
    return encodable("\n".join(lines))
