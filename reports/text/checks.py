"""Terminal text of ``audit check``, ``audit compare --plan`` and ``audit verify``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from audit.result import Check, Difference, PathCheck, Plan, Planned, Verification
from reports.formatting import shorten, visible
from reports.text.console import blocks, labelled_lines

LONGEST_VALUE: Final = 200
"""Characters shown of a recorded value that does not hold; the JSON output has all of them."""


# ---- check


def render_check(check: Check) -> str:
    """Each path's headers, then what an audit of the paths could measure and roughly needs."""
    return blocks([*(_path(path) for path in check.paths), [*_possible_audit(check)]])


def _path(path: PathCheck) -> list[str]:
    lines = [f"{visible(path.path)}: {_state(path)}"]
    for label, text in _refused(path) if path.refused else _headers(path):
        lines += labelled_lines(label, text)
    return lines


def _state(path: PathCheck) -> str:
    if path.refused:
        return "refused"
    if path.comparable is False:
        return "not comparable with the first path"
    return "sound" if path.sound else "does not match its signature"


def _refused(path: PathCheck) -> Iterator[tuple[str, str]]:
    yield "Refused", path.refused or ""


def _headers(path: PathCheck) -> Iterator[tuple[str, str]]:
    """(label, text) of everything read from one path."""
    yield "Format", ", ".join([str(path.format), *path.dtypes])
    yield "Tensors", f"{path.tensors:,} with {path.parameters:,} parameters"
    yield "Family", f"{path.family} ({_sizes(path.sizes or {})})" if path.family else str(path.unknown)
    yield "Config", "present" if path.config else "not next to the weights"
    yield "Tokenizer", "present" if path.tokenizer else "not next to the weights"
    for file in path.files:
        yield "File", f"{file.name}, {file.bytes:,} bytes"
        if file.sha256:
            yield "", f"sha256 {file.sha256}"
    for signature in path.signatures:
        yield "Signature", f"{signature.file} {signature.state}: {signature.detail}"
    yield from (("Note", note) for note in path.notes)
    if path.differences:
        yield "Differs", path.differences


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in sizes.items())


def _possible_audit(check: Check) -> Iterator[str]:
    if check.plan is None:
        unsound = any(not path.sound for path in check.paths)
        yield (
            "These checkpoints cannot be audited." if unsound else f"An audit would stop: {visible(str(check.stopped))}"
        )
        return
    several = len(check.paths) > 1
    yield f"An audit of {'these checkpoints' if several else 'this checkpoint and a second version of it'}"
    for label, text in (*_metrics(check.metrics), *_cost(check.plan, max(path.largest for path in check.paths))):
        yield from labelled_lines(label, text)


def _metrics(metrics: Iterable[Planned]) -> Iterator[tuple[str, str]]:
    """The metrics that can be measured, then those that cannot, grouped by their missing input."""
    by_reason: dict[str | None, list[str]] = {None: []}
    for row in metrics:
        by_reason.setdefault(row.missing, []).append(row.metric)
    yield "Can measure", ", ".join(by_reason.pop(None))
    for reason, names in by_reason.items():
        yield "Cannot", ", ".join(names)
        yield "Reason", str(reason)


def _cost(plan: Plan, largest: int) -> Iterator[tuple[str, str]]:
    tokens = plan.forward_tokens + plan.generated_tokens
    running = f"{tokens:,} tokens run" if tokens else "questions would add to it, see --concept"
    time = f"about {plan.seconds:.0f} s" if plan.seconds >= 1 else "under 1 s"
    yield "Time", f"{time}: {plan.bytes_to_read:,} bytes read; {running}"
    memory = f"about {plan.memory_bytes / 1e9:.1f} GB, the program itself included"
    yield "Peak memory", f"{memory}; the largest tensor has {largest:,} of {plan.parameters:,} parameters"


# ---- plan


def render_plan(plan: Plan) -> str:
    """What a comparison would read, run and need, then each metric with the reason if it cannot run."""
    rows = [
        ("Architecture", plan.architecture or "not a supported family: tensor-level evidence only"),
        ("Parameters", f"{plan.parameters:,}"),
        ("To read", f"{plan.bytes_to_read / 1e9:.2f} GB"),
        ("To run", f"{plan.forward_tokens:,} tokens forward, about {plan.generated_tokens:,} generated"),
        ("Time", f"about {plan.seconds:.0f} s on this machine"),
        ("Memory", f"about {plan.memory_bytes / 1e9:.1f} GB"),
        *(("Note", note) for note in plan.notes),
    ]
    return blocks([[*(f"{label:<14} {visible(text)}" for label, text in rows), *map(_planned, plan.metrics)]])


def _planned(row: Planned) -> str:
    name = f"{row.metric} ({visible(row.concept)})" if row.concept else row.metric
    return f"  not measured {name}: {visible(row.missing)}" if row.missing else f"  would run    {name}"


# ---- verify


def render_verification(verification: Verification) -> str:
    """The steps that held, then the first difference."""
    lines = [f"{visible(verification.result)}: {'holds' if verification.holds else 'does not hold'}"]
    lines += [f"  Verified    {step}" for step in verification.verified]
    if verification.difference is not None:
        lines.append(f"  Difference  {_difference(verification.difference)}")
    return blocks([[*lines, *(f"  Note        {visible(note)}" for note in verification.notes)]])


def _difference(difference: Difference) -> str:
    recorded, found = (_value(value) for value in (difference.recorded, difference.found))
    return f"{visible(difference.field)}: recorded {recorded}, found {found}"


def _value(value: Any) -> str:
    return shorten(str(value), LONGEST_VALUE)
