"""Progress interface: work that takes long reports its steps, without knowing how they are shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives one call for each step; the command line shows it on stderr, a notebook may ignore it."""

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """``text`` names the work; ``done`` of ``total`` units are finished, where these are known."""


class Silent:
    """Shows nothing."""

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        return


SILENT = Silent()
