"""Errors a user can fix. Anything else that escapes is a defect of this tool.

AuditError
├── CheckpointError      a file or folder of weights that cannot be trusted or read
├── IncomparableError    two sound checkpoints that are not versions of one model
├── ModelError           config or tokenizer missing, broken or not matching the weights
├── ConceptError         a concept or skill that cannot be used as given
└── ResultError          a result file that cannot be read
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 2000
"""Characters of a message; the longest of ours lists a concept file's entries."""


class AuditError(Exception):
    """One thing the user can mend: what is wrong, where, and what to do about it.

    ``kind`` is the machine-readable name used in ``--json`` output.
    """

    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = _printable(message)
        self.where = None if where is None else _printable(where)
        self.hint = None if hint is None else _printable(hint)

    def __str__(self) -> str:
        """The whole story on one line."""
        prefix = f"{self.where}: " if self.where else ""
        suffix = f" {self.hint}" if self.hint else ""
        return f"{prefix}{self.message}{suffix}"

    def as_json(self) -> dict[str, dict[str, str | None]]:
        return {
            "error": {
                "kind": self.kind,
                "message": self.message,
                "where": self.where,
                "hint": self.hint,
            }
        }


def _printable(text: str) -> str:
    """One line of bounded length: names in a foreign file may hold line ends, terminal codes or a megabyte."""
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


class CheckpointError(AuditError):
    kind = "checkpoint"


class IncomparableError(AuditError):
    kind = "incomparable"


class ModelError(AuditError):
    kind = "model"


class ConceptError(AuditError):
    kind = "concept"


class ResultError(AuditError):
    kind = "result"
