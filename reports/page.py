"""An ``AuditResult`` as the records that the page prints, in the order in which it prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from audit.result import AuditResult, Finding, SubjectRecord, Verdict
from reports import figures
from reports.formatting import byte_size, clip, distinct, integer, moment, number, percent, shorten, slug
from reports.matrix import Column, Matrix, matrices
from reports.measurements import Group, MeasuredView, dot_rows, grouped, views
from reports.tables import Cell, Table, bounds, capped, explained, figure, text
from reports.weights import WeightsView, weights_view
from reports.wording import VERDICTS, counts, headline, name_of, with_control

Pairs = Sequence[tuple[str, str]]
MOST_FILES = 60


@dataclass(frozen=True)
class ConceptView:
    """One finding: the verdict, what would have reversed it, and its evidence."""

    anchor: str
    name: str
    whole_pair: bool
    verdict: Verdict
    label: str
    meaning: str
    reason: str
    would_reverse: str
    dots: str
    falsifiers: Table | None
    measured: Sequence[MeasuredView]
    groups: Sequence[Group]


@dataclass(frozen=True)
class SubjectView:
    role: str
    facts: Pairs
    files: Sequence[tuple[str, str, str]]
    more_files: str


@dataclass(frozen=True)
class Page:
    title: str
    headline: str
    counts: Sequence[tuple[Verdict | None, int, str]]
    pair: str
    dates: str
    tool: str
    concepts: Sequence[ConceptView]
    subjects: Sequence[SubjectView]
    matrices: Sequence[Matrix]
    weights: WeightsView
    controls: Table | None
    controls_said: str
    not_checked: Table | None
    command: str
    repeat: Pairs
    settings: Pairs
    packages: Pairs
    seconds: Pairs


def page(result: AuditResult) -> Page:
    """Everything the template prints; strings may still hold anything, escaping is the template's."""
    places = anchors(result.findings)
    concepts = [concept_view(found, anchor) for found, anchor in zip(result.findings, places, strict=True)]
    columns = [
        Column(view.name, f"#{view.anchor}", found, [f"#{measured.anchor}" for measured in view.measured])
        for view, found in zip(concepts, result.findings, strict=True)
    ]
    run = result.run
    names = ", ".join(view.name for view in concepts[:3] if not view.whole_pair)
    return Page(
        title=shorten(f"Unlearning audit{': ' if names else ''}{names}", 120),
        headline=headline(result),
        counts=counts(result),
        pair=f"{clip(result.subjects.unlearned.path, 60)} against {clip(result.subjects.base.path, 60)}",
        dates=moment(run.started),
        tool=shorten(f"{result.tool.name} {result.tool.version}", 80),
        concepts=concepts,
        subjects=list(subject_views(result)),
        matrices=matrices(columns),
        weights=weights_view(result),
        controls=controls_table(concepts, result.findings),
        controls_said=controls_said(result.findings),
        not_checked=not_checked_table(result),
        command=shorten(run.command, 2_000) or "not recorded",
        repeat=[
            ("seed", integer(run.seed)),
            ("device", shorten(run.device, 60)),
            ("number format of the models", shorten(run.dtype, 60)),
            ("threads", integer(run.threads)),
            ("started", moment(run.started)),
            ("finished", moment(run.finished)),
            ("tool", shorten(f"{result.tool.name} {result.tool.version}", 80)),
            ("result format", f"{result.format}, version {result.format_version}"),
        ],
        settings=[(shorten(key, 60), explained(value)) for key, value in sorted(run.settings.items())],
        packages=[(shorten(key, 60), shorten(value, 60)) for key, value in sorted(run.packages.items())],
        seconds=[(shorten(key, 60), f"{number(value)} s") for key, value in run.seconds.items()],
    )


def anchors(findings: Iterable[Finding]) -> list[str]:
    """One anchor a finding, each its own."""
    return distinct(anchor_of(finding) for finding in findings)


def anchor_of(finding: Finding) -> str:
    return "pair" if finding.concept is None else f"concept-{slug(finding.concept)}"


def concept_view(finding: Finding, anchor: str) -> ConceptView:
    words = VERDICTS[finding.verdict]
    name = name_of(finding)
    rows = dot_rows(finding.measurements)
    measured = views(finding.measurements, anchor)
    return ConceptView(
        anchor=anchor,
        name=name,
        whole_pair=finding.concept is None,
        verdict=finding.verdict,
        label=words.label,
        meaning=words.meaning,
        reason=shorten(finding.reason, 2_000),
        would_reverse=shorten(finding.would_reverse, 2_000),
        dots=figures.dots(f"{anchor}-dots", f"{name}: base, unlearned and controls", rows),
        falsifiers=falsifiers(finding),
        measured=measured,
        groups=grouped(finding.measurements, measured),
    )


def falsifiers(finding: Finding) -> Table | None:
    """The controls that show each test can come out the other way."""
    rows = [
        [
            text(found.title or found.metric, 60),
            figure(found.value),
            figure(found.base),
            text(found.control.name, 80) if found.control else Cell("none recorded"),
            figure(found.control.value if found.control else None),
        ]
        for found in finding.measurements
        if found.value is not None and (found.control is not None or found.base is not None)
    ]
    columns = ["test", "unlearned", "same test on the base", "control", "its value"]
    return Table("Controls that show the tests can come out the other way", columns, rows) if rows else None


def subject_views(result: AuditResult) -> Iterable[SubjectView]:
    named = {"base": result.subjects.base, "unlearned": result.subjects.unlearned, "retained": result.subjects.retained}
    for role, subject in named.items():
        if subject is not None:
            yield subject_view(role, subject)


def subject_view(role: str, subject: SubjectRecord) -> SubjectView:
    files = [(shorten(f.name, 120), byte_size(f.bytes), shorten(f.sha256, 80)) for f in subject.files[:MOST_FILES]]
    left = len(subject.files) - len(files)
    total = byte_size(sum(found.bytes for found in subject.files))
    return SubjectView(
        role=role,
        facts=[
            ("path", shorten(subject.path)),
            ("format", shorten(subject.format)),
            ("family", shorten(subject.architecture or "none of the known families")),
            ("parameters", integer(subject.parameters)),
            ("number format", shorten(subject.dtype)),
            ("files", f"{integer(len(subject.files))}, {total}"),
            ("digest of the tensors as loaded", shorten(subject.tensors_digest or "not computed", 80)),
            *(("note", shorten(note)) for note in subject.notes[:20]),
        ],
        files=files,
        more_files=f"and {integer(left)} more files, listed in the embedded result" if left else "",
    )


def controls_table(concepts: Sequence[ConceptView], findings: Sequence[Finding]) -> Table | None:
    """Every measured number with its uncertainty and its control."""
    rows = [
        [
            text(view.name, 40),
            Cell(measured.title, "", "t", measured.anchor),
            figure(found.value),
            bounds(found.interval),
            figure(found.n),
            figure(found.p_value),
            figure(found.control.value if found.control else None),
            bounds(found.control.interval if found.control else None),
        ]
        for view, finding in zip(concepts, findings, strict=True)
        for measured, found in zip(view.measured, finding.measurements, strict=True)
        if found.value is not None
    ]
    columns = ["concept", "test", "value", "interval", "n", "p-value", "control", "control's interval"]
    return capped("Every number with its uncertainty", columns, rows, len(rows)) if rows else None


def controls_said(findings: Sequence[Finding]) -> str:
    measured = [found for finding in findings for found in finding.measurements if found.value is not None]
    if not measured:
        return "No test of a concept ran, so there is no control to show."
    sampled = sum(found.interval is not None for found in measured)
    share = percent(with_control(findings) / len(measured))
    return (
        f"{integer(len(measured))} numbers were measured; {integer(sampled)} carry an interval and "
        f"{integer(with_control(findings))} ({share}) stand beside a control."
    )


def not_checked_table(result: AuditResult) -> Table | None:
    titles = {finding.concept: name_of(finding, 60) for finding in result.findings}
    rows = [
        [
            text(found.metric.replace("_", " "), 60),
            text(titles.get(found.concept, found.concept) if found.concept is not None else "the pair", 60),
            Cell(shorten(found.reason, 600), "", "w"),
        ]
        for found in result.not_checked
    ]
    return capped("Tests that did not run", ["test", "concept", "reason"], rows, len(rows)) if rows else None
