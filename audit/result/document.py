"""``AuditResult``: the document ``result.json`` (format version 1); writing, reading and rendering it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError
from pydantic_core import PydanticSerializationError

from audit.errors import ResultError
from audit.result.files import write_text
from audit.result.finding import Finding, NotChecked, Verdict
from audit.result.measurement import Record, lifted
from audit.result.subjects import Subjects
from audit.result.weights import Weights

FORMAT: Final = "unlearning-audit/result"
FORMAT_VERSION: Final = 1


class Tool(Record):
    name: str
    version: str


class Run(Record):
    """How to repeat the run. Only ``started``, ``finished`` and ``seconds`` differ between equal runs."""

    command: str
    settings: dict[str, Any]
    seed: int
    device: str
    dtype: str
    threads: int
    started: str
    finished: str
    seconds: dict[str, float] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)


class AuditResult(Record):
    format: Literal["unlearning-audit/result"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    tool: Tool
    run: Run
    subjects: Subjects
    weights: Weights
    findings: list[Finding]
    not_checked: list[NotChecked] = Field(default_factory=list)

    def verdicts(self) -> Iterator[Verdict]:
        return (finding.verdict for finding in self.findings)

    def to_json(self) -> str:
        """The text of the file. Lone surrogates, which UTF-8 cannot encode, are kept and escaped on writing."""
        try:
            return self.model_dump_json(indent=1) + "\n"
        except (UnicodeEncodeError, PydanticSerializationError):  # a lone surrogate
            return json.dumps(self.model_dump(), allow_nan=False, ensure_ascii=False, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write atomically: an interrupted write leaves any earlier file as it was."""
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> AuditResult:
        """The result in ``path``.

        Raises:
            ResultError: not JSON, not a result, another format version, or an invalid field (the first one is named).
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ResultError(f"not readable as JSON ({error}).", where=str(path)) from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ResultError("not a result of this tool.", where=str(path), hint="Pass the result.json of an audit.")
        if document.get("format_version") != FORMAT_VERSION:
            raise ResultError(
                f"format version {document.get('format_version')!r}; this tool reads version {FORMAT_VERSION}.",
                where=str(path),
                hint="Open it with the version of the tool that wrote it.",
            )
        try:
            return cls.model_validate(migrated(document))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ResultError(f"field {field}: {first['msg']}.", where=str(path)) from error

    def render(self, format_name: str) -> str:
        """The result in an installed report format (``"html"``, ``"text"``), found by entry point."""
        for entry in entry_points(group="unlearning_audit.reports", name=format_name):
            rendered: str = entry.load()(self)
            return rendered
        raise ResultError(
            f"no report format {format_name!r} is installed.", hint="Install the unlearning-audit package."
        )

    def _repr_html_(self) -> str:
        """The report in a notebook cell, inside an iframe so that styles do not mix."""
        from html import escape

        page = escape(self.render("html"), quote=True)
        return f'<iframe title="Unlearning audit" srcdoc="{page}" style="width:100%;height:48rem;border:0"></iframe>'


def migrated(document: dict[str, Any]) -> dict[str, Any]:
    """A document of format version 1 with the current fields; version 0.1.0 kept some of them in ``details``."""
    places = [document.get("weights"), *(document.get("findings") or ())]
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("measurements"), list):
            place["measurements"] = [lifted(row) if isinstance(row, dict) else row for row in place["measurements"]]
    return document


def check_output(folder: Path) -> None:
    """Check before the slow work that the result can be written to ``folder`` without overwriting another tool's file.

    Raises:
        ResultError: ``folder`` is a file, or contains a ``result.json`` that this tool did not write.
    """
    hint = "Name another folder with --output."
    if folder.exists() and not folder.is_dir():
        raise ResultError("is a file; the result and the report need a folder.", where=str(folder), hint=hint)
    earlier = folder / "result.json"
    try:
        document = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else {"format": FORMAT}
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultError(
            "exists and was not written by this tool; it is not overwritten.", where=str(earlier), hint=hint
        )
