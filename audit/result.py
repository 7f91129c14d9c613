"""What an audit found, as frozen records and as ``result.json`` (format version 1).

Imports neither torch nor anything that reads weights, so that a report can be drawn anywhere.
Numbers are finite or ``None``; a ``None`` value always comes with the reason it was not measured.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticSerializationError

from audit.errors import ResultError

FORMAT: Final = "unlearning-audit/result"
FORMAT_VERSION: Final = 1

Verdict = Literal["removed", "hidden", "present", "gated", "destroyed", "inconclusive"]

Direction = Literal["knowledge", "forgetting", "protection", "utility", "change", "none"]
"""What a higher value means: more knowledge kept, more forgotten, a healthier model, more changed, or no order."""

Number = float | None
Interval = tuple[float, float]
Cell = str | int | float | bool | None


class Record(BaseModel):
    """A frozen record; unknown fields are refused when written and kept out when read."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Control(Record):
    """The same number where the knowledge in question plays no part."""

    name: str
    value: Number = None
    interval: Interval | None = None


class Measurement(Record):
    """One number of one metric with everything needed to believe or doubt it.

    Attributes:
        metric: the metric's file name, command-line name and HTML anchor.
        title: a few words for people.
        value: the number for the unlearned model (or for the pair), ``None`` if not measured.
        interval: confidence interval of ``value``; ``None`` where the value is exact, not sampled.
        base, base_interval, retained: the same number for the other models, where it exists.
        unit: what one unit of ``value`` is, e.g. ``"nats per answer token"``.
        direction: what a higher value means.
        n: items behind the value.
        p_value: of the stated null in ``details["null"]``.
        control: the same number on something unrelated.
        layers: name of a series -> one value per layer, layer 0 first.
        items: one row per item, all rows with the same keys.
        details: settings and further scalars, JSON values only.
        not_measured: why ``value`` is ``None``.
    """

    metric: str
    title: str
    value: Number = None
    interval: Interval | None = None
    base: Number = None
    base_interval: Interval | None = None
    retained: Number = None
    unit: str = ""
    direction: Direction = "none"
    n: int | None = None
    p_value: Number = None
    control: Control | None = None
    layers: dict[str, list[Number]] = Field(default_factory=dict)
    items: list[dict[str, Cell]] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    not_measured: str | None = None

    @model_validator(mode="after")
    def value_or_reason(self) -> Measurement:
        if (self.value is None) == (self.not_measured is None):
            raise ValueError(f"{self.metric}: give either a value or the reason it was not measured")
        return self

    @field_validator("layers", "items", "details", mode="before")
    @classmethod
    def null_where_not_finite(cls, value: Any) -> Any:
        """Series and tables may have holes; a hole is null, never NaN."""
        return _finite(value)

    @field_validator("value", "base", "retained", "p_value")
    @classmethod
    def finite(cls, value: Number) -> Number:
        if value is not None and not math.isfinite(value):
            raise ValueError("numbers are finite or None with a reason")
        return value


class NotChecked(Record):
    metric: str
    concept: str | None
    reason: str


class Finding(Record):
    """The verdict on one concept, the sentence that explains it, and what would have turned it.

    ``concept`` is ``None`` for what holds of the pair as a whole.
    """

    concept: str | None
    title: str
    verdict: Verdict
    reason: str
    would_reverse: str
    measurements: list[Measurement] = Field(default_factory=list)

    def __getitem__(self, metric: str) -> Measurement:
        for measurement in self.measurements:
            if measurement.metric == metric:
                return measurement
        raise KeyError(metric)


class FileRecord(Record):
    name: str
    bytes: int
    sha256: str


class SubjectRecord(Record):
    """Which bytes were audited. ``tensors_digest`` is over the tensors as loaded, whatever file held them."""

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


class TensorChange(Record):
    """Change of one tensor; the optional fields are ``None`` for unchanged tensors and where undefined."""

    name: str
    role: str | None
    layer: int | None
    shape: list[int]
    dtype: str
    changed: bool
    relative_change: Number
    cosine: Number
    l2: Number
    stable_rank: Number = None
    singular_values: list[float] = Field(default_factory=list)
    flipped_4bit: Number = None
    flipped_8bit: Number = None


class LayerChange(Record):
    """All tensors of one layer together, and its FFN by neuron."""

    layer: int
    relative_change: Number
    cosine: Number
    l2: Number
    flipped_4bit: Number = None
    flipped_8bit: Number = None
    changed_value_vectors: int | None = None
    changed_key_rows: int | None = None
    total_neurons: int | None = None


class NeuronChange(Record):
    """One FFN neuron that moved, and what its value vector promotes in vocabulary space."""

    layer: int
    neuron: int
    relative_change: Number
    cosine: Number
    l2: Number
    key_relative_change: Number = None
    tokens_before: list[str] = Field(default_factory=list)
    tokens_after: list[str] = Field(default_factory=list)
    tokens_demoted: list[str] = Field(default_factory=list)


class Weights(Record):
    changed_tensors: int
    total_tensors: int
    changed_fraction: Number
    per_tensor: list[TensorChange] = Field(default_factory=list)
    per_layer: list[LayerChange] = Field(default_factory=list)
    top_neurons: list[NeuronChange] = Field(default_factory=list)
    themes: list[str] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)


class Tool(Record):
    name: str
    version: str


class Run(Record):
    """How to repeat it. Only ``started``, ``finished`` and ``seconds`` differ between equal runs."""

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
        """As in the file; text that UTF-8 cannot hold is kept, and escaped when it is written."""
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
            ResultError: not a result, not JSON, of a newer format, or the first field that does not fit.
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
            return cls.model_validate(document)
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
        """The report inside a notebook cell, in a frame of its own so that styles do not mix."""
        from html import escape

        page = escape(self.render("html"), quote=True)
        return f'<iframe title="Unlearning audit" srcdoc="{page}" style="width:100%;height:48rem;border:0"></iframe>'


def refuse_output(folder: Path) -> None:
    """Stop before slow work whose result could not be written to ``folder``, or would take the place of another's.

    Raises:
        ResultError: it is a file, or its ``result.json`` is none of this tool's.
    """
    hint = "Name another folder with --output."
    if folder.exists() and not folder.is_dir():
        raise ResultError("is a file; the result and the report want a folder.", where=str(folder), hint=hint)
    earlier = folder / "result.json"
    try:
        document = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else {"format": FORMAT}
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultError(
            "already there and not written by this tool; it is left alone.", where=str(earlier), hint=hint
        )


def _finite(value: Any) -> Any:
    """``value`` with every float that is not finite replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by way of a temporary file beside it, flushed and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
