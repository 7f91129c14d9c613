"""The result file: what it refuses, what survives a round trip, what an interrupted write leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from audit.errors import AuditError, ResultError
from audit.result import AuditResult, Measurement, write_text
from tests.sample_result import sample


def test_a_result_survives_a_round_trip(tmp_path: Path) -> None:
    result = sample()
    result.write(tmp_path / "result.json")
    assert AuditResult.read(tmp_path / "result.json") == result


def test_equal_results_give_equal_bytes() -> None:
    assert sample().to_json() == sample().to_json()


def test_a_number_that_is_not_finite_never_reaches_a_result() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Measurement(metric="m", title="M", value=float("nan"))
    with pytest.raises(ValidationError, match="finite"):
        Measurement(metric="m", title="M", value=float("inf"))


def test_holes_in_series_and_tables_are_null() -> None:
    nan = float("nan")
    measured = Measurement(metric="m", title="M", value=1.0, layers={"base": [1.0, nan]}, details={"a": {"b": [nan]}})
    assert measured.layers == {"base": [1.0, None]}
    assert measured.details == {"a": {"b": [None]}}


def test_a_value_and_a_reason_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="reason"):
        Measurement(metric="m", title="M")
    with pytest.raises(ValidationError, match="reason"):
        Measurement(metric="m", title="M", value=1.0, not_measured="no questions")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("[]", "not a result of this tool"),
        ('{"format": "something/else"}', "not a result of this tool"),
        ('{"format": "unlearning-audit/result", "format_version": 2}', "reads version 1"),
        ('{"format": "unlearning-audit/result", "format_version": 1}', "field tool"),
    ],
)
def test_a_file_that_is_not_a_result_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=message) as caught:
        AuditResult.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_edited_field_is_named(tmp_path: Path) -> None:
    document = json.loads(sample().to_json())
    document["findings"][0]["verdict"] = "fine"
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"findings\.0\.verdict"):
        AuditResult.read(path)


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_text(path, "earlier")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("audit.result.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "later")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_utf8_cannot_hold_is_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "lone surrogate \ud800")
    assert (tmp_path / "page.html").read_text() == "lone surrogate \\ud800"


def test_a_result_shows_itself_as_the_report_in_a_notebook() -> None:
    shown = sample()._repr_html_()
    assert shown.startswith("<iframe")
    assert "srcdoc" in shown


def test_an_error_is_one_line_with_place_and_advice() -> None:
    error = AuditError("shape [2] but expected [3].", where="a.pt", hint="Pass another file.")
    assert str(error) == "a.pt: shape [2] but expected [3]. Pass another file."
    assert error.as_json()["error"]["where"] == "a.pt"
