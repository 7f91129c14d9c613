"""Errors a user can fix. Anything else that escapes is a defect of this tool.

AuditError
├── CheckpointError      a file or folder of weights that cannot be trusted or read
├── IncomparableError    two sound checkpoints that are not versions of one model
├── ModelError           config or tokenizer missing, broken or not matching the weights
├── ConceptError         a concept or skill that cannot be used as given
└── ResultError          a result file that cannot be read
"""

from __future__ import annotations


class AuditError(Exception):
    """One thing the user can mend: what is wrong, where, and what to do about it.

    ``kind`` is the machine-readable name used in ``--json`` output.
    """

    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

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
