"""The audited models: their files by name, size and hash, and the contents of the files."""

from __future__ import annotations

from pydantic import Field

from audit.result.measurement import Record


class FileRecord(Record):
    name: str
    bytes: int
    sha256: str


class SubjectRecord(Record):
    """One audited model.

    Attributes:
        tensors_digest: over the tensors as loaded, independent of the file format; empty for the reference, whose
            weights are not compared.
        notes: what was normalised, and what is unusual about this model or in its comparison with the base.
    """

    path: str
    format: str
    files: list[FileRecord]
    tensors_digest: str
    architecture: str | None
    parameters: int
    dtype: str
    notes: list[str] = Field(default_factory=list)


class Subjects(Record):
    base: SubjectRecord
    unlearned: SubjectRecord
    retained: SubjectRecord | None = None
    reference: SubjectRecord | None = None
