"""Terminal text of ``audit check``, ``audit compare --plan`` and ``audit verify``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from audit.result import Check, Difference, PathCheck, Plan, Planned, Verification
from reports.formatting import byte_size, shorten, visible
from reports.text.console import blocks, labelled_lines

LONGEST_VALUE: Final = 200
"""Characters shown of a recorded value that does not hold; the JSON output has all of them."""


# ---- check


def render_check(check: Check) -> str:
    """Each path's headers, then what an audit of the paths could measure and roughly needs."""
    return blocks([*(_path(path) for path in check.paths), [*_possible_audit(check)]])


def _path(path: PathCheck) -> list[str]:
    rows = [("Refused", path.refused)] if path.refused else _headers(path)
    return [f"{visible(path.path)}: {_state(path)}", *_lines(rows)]


def _state(path: PathCheck) -> str:
    if path.refused:
        return "refused"
    if path.comparable is False:
        return "not comparable with the first path"
    return "sound" if path.sound else "does not match its signature"


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
    yield from _lines(_metrics(check.metrics))
    yield from _lines(_cost(check.plan, max(path.largest for path in check.paths)))


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
    yield "Time", f"{_seconds(plan)}: {byte_size(plan.bytes_to_read)} read; {running}"
    memory = f"about {plan.memory_bytes / 1e9:.1f} GB, the program itself included"
    yield "Peak memory", f"{memory}; the largest tensor has {largest:,} of {plan.parameters:,} parameters"


def _seconds(plan: Plan) -> str:
    return f"about {plan.seconds:.0f} s" if plan.seconds >= 1 else "under 1 s"


# ---- plan


def render_plan(plan: Plan) -> str:
    """What a comparison would read, run and need; then the metrics of the weights and of each concept."""
    comparison = [
        ("Architecture", plan.architecture or "not a supported family: tensor-level evidence only"),
        ("Parameters", f"{plan.parameters:,}"),
        ("To read", byte_size(plan.bytes_to_read)),
        ("To run", f"{plan.forward_tokens:,} tokens forward, about {plan.generated_tokens:,} generated"),
        ("Time", f"{_seconds(plan)} on this machine"),
        ("Peak memory", f"about {plan.memory_bytes / 1e9:.1f} GB"),
        *(("Note", note) for note in plan.notes),
    ]
    sections = [("This comparison", comparison)]
    for concept in dict.fromkeys(row.concept for row in plan.metrics):
        title = "Weights" if concept is None else f"Concept {visible(concept)}"
        sections.append((title, [*_metrics(row for row in plan.metrics if row.concept == concept)]))
    return blocks([title, *_lines(rows)] for title, rows in sections)


# ---- verify


def render_verification(verification: Verification) -> str:
    """The steps that held, then the first difference."""
    rows = [("Verified", step) for step in verification.verified]
    if verification.difference is not None:
        rows.append(("Difference", _difference(verification.difference)))
    rows += [("Note", note) for note in verification.notes]
    state = "holds" if verification.holds else "does not hold"
    return blocks([[f"{visible(verification.result)}: {state}", *_lines(rows)]])


def _difference(difference: Difference) -> str:
    recorded, found = (shorten(str(value), LONGEST_VALUE) for value in (difference.recorded, difference.found))
    return f"{difference.field}: recorded {recorded}, found {found}"


def _lines(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """(label, text) pairs as lines."""
    for label, text in rows:
        yield from labelled_lines(label, text)
