"""A result as an in-toto statement: its fields, its subjects, and the digest of the result file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from audit.checkpoint.statement import write_statement
from audit.errors import ResultError
from tests.sample_result import sample


def test_a_statement_names_every_file_the_verdicts_and_the_result(tmp_path: Path) -> None:
    result = sample()
    result.write(tmp_path / "result.json")
    write_statement(tmp_path / "result.json", tmp_path / "statement.json")
    written = json.loads((tmp_path / "statement.json").read_text(encoding="utf-8"))
    assert set(written) == {"_type", "subject", "predicateType", "predicate"}
    assert written["_type"] == "https://in-toto.io/Statement/v1"
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in written["subject"]}
    for file in result.subjects.unlearned.files:
        assert digests[f"unlearned/{file.name}"] == file.sha256
    assert [row["verdict"] for row in written["predicate"]["verdicts"]] == list(result.verdicts())
    content = (tmp_path / "result.json").read_bytes()
    assert written["predicate"]["result"]["digest"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_no_statement_is_written_about_a_file_that_is_not_a_result(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResultError):
        write_statement(tmp_path / "other.json", tmp_path / "statement.json")
    assert not (tmp_path / "statement.json").exists()
