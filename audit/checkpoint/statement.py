"""A result as an in-toto Statement v1: the audited files and the verdicts on them (in-toto/attestation, spec/v1)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from audit.result import AuditResult, write_text

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:unlearning-audit:verdicts:v1"


def statement(result: AuditResult, document: bytes) -> dict[str, Any]:
    """The unsigned statement about ``result``.

    Args:
        document: the bytes of result.json, whose digest is in the statement.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": f"{role}/{file.name}", "digest": {"sha256": file.sha256}}
            for role, record in result.subjects
            if record is not None
            for file in record.files
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "tool": result.tool.model_dump(),
            "finished": result.run.finished,
            "result": {"digest": {"sha256": hashlib.sha256(document).hexdigest()}},
            "tensors": {role: record.tensors_digest for role, record in result.subjects if record is not None},
            "verdicts": [{"concept": finding.concept, "verdict": finding.verdict} for finding in result.findings],
        },
    }


def write_statement(result: Path, target: Path) -> None:
    """Write the statement about the result file ``result`` to ``target``, whole or not at all.

    Raises:
        ResultError: ``result`` is not a result file.
    """
    read = AuditResult.read(result)
    write_text(target, json.dumps(statement(read, result.read_bytes()), ensure_ascii=False, indent=1) + "\n")
