"""Errors that a user can fix. Any other exception that escapes is a defect of this tool.

AuditError
├── CheckpointError      a file or folder of weights that cannot be read or must not be trusted
├── IncomparableError    two valid checkpoints that are not versions of one model
├── ModelError           config or tokenizer missing, broken or not matching the weights
├── ConceptError         a concept or skill that cannot be used as given
├── ResultError          a result file that cannot be read
└── UnexpectedError      anything else, put into this form by the command line
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MAX_LENGTH: Final = 2000
"""Characters of a message; the longest of ours lists the entries of a concept file."""

LISTED: Final = 5
"""Names in a message before the rest is counted."""


class AuditError(Exception):
    """An error that the user can fix: what is wrong, where, and what to do about it.

    Attributes:
        kind: the machine-readable name in ``--json`` output.
        where: the file, folder or option with the error, ``None`` if there is none.
        hint: what to do, as a sentence, ``None`` if the message says it.
    """

    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = _printable(message)
        self.where = None if where is None else _printable(where)
        self.hint = None if hint is None else _printable(hint)

    def __str__(self) -> str:
        """Place, message and hint on one line."""
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


def listed(names: Sequence[str], limit: int = LISTED) -> str:
    """The first ``limit`` names for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is Python's, torch's on a GPU, or a plain ``RuntimeError`` of torch's allocator on the CPU."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or on_cpu


def _printable(text: str) -> str:
    """One line of bounded length; a name in a foreign file may contain line ends, terminal codes or a megabyte."""
    shown = text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]} ..."
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


class UnexpectedError(AuditError):
    """An error that is not one of ours (memory, disk, a library), in the same form."""

    kind = "unexpected"

    def __init__(self, error: BaseException) -> None:
        if is_out_of_memory(error):
            hint = "Use a smaller --batch-size, --dtype bfloat16 or a machine with more; what was finished is kept."
            super().__init__("out of memory.", hint=hint)
            return
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        super().__init__(message, hint="Run again with --debug for the traceback.")
