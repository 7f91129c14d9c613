"""Progress interface: work that takes long reports its steps, without knowing how they are shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives one call for each step; the command line shows it on stderr, a notebook may ignore it."""

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        """``text`` names the work; ``done`` of ``total`` units are finished, where these are known.

        ``detail`` is what changes from unit to unit, such as a loss.
        """


class Silent:
    """Shows nothing."""

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        return


SILENT = Silent()
