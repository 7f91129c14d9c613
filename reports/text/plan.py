"""Terminal text of ``audit compare --plan``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audit.result import Plan, Planned, PlannedAttack
from reports.formatting import byte_size, duration, visible
from reports.text.layout import blocks, labelled_rows


def render_plan(plan: Plan) -> str:
    """What a comparison would read, run and need; then the metrics of the weights and of each concept."""
    comparison = [
        ("Architecture", plan.architecture or "not a supported family: tensor-level evidence only"),
        ("Parameters", f"{plan.parameters:,}"),
        ("To read", byte_size(plan.bytes_to_read)),
        ("To run", f"{plan.forward_tokens:,} tokens forward, about {plan.generated_tokens:,} generated"),
        *((("To train", f"{plan.trained_tokens:,} tokens"),) if plan.trained_tokens else ()),
        ("Time", f"{duration(plan.seconds)} on this machine"),
        ("Peak memory", memory(plan.memory_bytes)),
        *(("Note", note) for note in plan.notes),
    ]
    sections = [("This comparison", comparison)]
    if plan.attacks:
        sections.append(("Attacks, included above", [*attack_rows(plan.attacks)]))
    for concept in dict.fromkeys(row.concept for row in plan.metrics):
        title = "Weights" if concept is None else f"Concept {visible(concept)}"
        sections.append((title, [*metric_rows(row for row in plan.metrics if row.concept == concept)]))
    return blocks([title, *labelled_rows(rows)] for title, rows in sections)


def metric_rows(metrics: Iterable[Planned]) -> Iterator[tuple[str, str]]:
    """The metrics that can be measured, then those that cannot, grouped by their missing input."""
    by_reason: dict[str | None, list[str]] = {None: []}
    for row in metrics:
        by_reason.setdefault(row.missing, []).append(row.metric)
    yield "Can measure", ", ".join(by_reason.pop(None))
    for reason, names in by_reason.items():
        yield "Cannot", ", ".join(names)
        yield "Reason", str(reason)


def attack_rows(attacks: Iterable[PlannedAttack]) -> Iterator[tuple[str, str]]:
    """The time of each attack, then its name for ``--attacks``, its title and its memory; the longest first."""
    for attack in sorted(attacks, key=lambda attack: -attack.seconds):
        title = "" if attack.title == attack.name else f" ({visible(attack.title)})"
        yield duration(attack.seconds), f"{attack.name}{title}, {memory(attack.memory_bytes)}"


def memory(size: int) -> str:
    return f"about {size / 1e9:.1f} GB"
