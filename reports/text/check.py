"""Terminal text of ``audit check``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from audit.result import Check, PathCheck, Plan
from reports.formatting import byte_size, duration, visible
from reports.text.layout import blocks, labelled_rows
from reports.text.plan import metric_rows


def render_check(check: Check) -> str:
    """Each path's headers, then what an audit of the paths could measure and roughly needs."""
    return blocks([*(_path(path) for path in check.paths), [*_possible_audit(check)]])


def _path(path: PathCheck) -> list[str]:
    rows = [("Refused", path.refused)] if path.refused else _headers(path)
    return [f"{visible(path.path)}: {_state(path)}", *labelled_rows(rows)]


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
    yield from labelled_rows(metric_rows(check.metrics))
    yield from labelled_rows(_cost(check.plan, max(path.largest for path in check.paths)))


def _cost(plan: Plan, largest: int) -> Iterator[tuple[str, str]]:
    tokens = plan.forward_tokens + plan.generated_tokens
    running = f"{tokens:,} tokens run" if tokens else "questions would add to it, see --concept"
    yield "Time", f"{duration(plan.seconds)}: {byte_size(plan.bytes_to_read)} read; {running}"
    memory = f"about {plan.memory_bytes / 1e9:.1f} GB, the program itself included"
    yield "Peak memory", f"{memory}; the largest tensor has {largest:,} of {plan.parameters:,} parameters"
