"""An ``AuditResult`` as the records that the page prints, in the order in which it prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from audit.result import AuditResult, Finding, SubjectRecord, Verdict
from reports import charts
from reports.comparison_table import ComparisonTable, FindingColumn, comparison_tables
from reports.formatting import byte_size, clip, distinct, integer, moment, number, percent, shorten, slug
from reports.knowledge import KnowledgeView, knowledge_view
from reports.measurements import Group, MeasuredView, dot_rows, grouped, views
from reports.tables import Cell, Table, bounds, capped, explained, figure, text
from reports.weights import WeightsView, weights_view
from reports.wording import counts, headline, name_of, text_of, title_of, with_control

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
    note: str
    error_rate: str
    would_reverse: str
    knowledge: KnowledgeView
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
    """The whole page; ``has_figures`` says whether a concept has figures of its facts."""

    title: str
    headline: str
    counts: Sequence[tuple[Verdict | None, int, str]]
    pair: str
    dates: str
    tool: str
    concepts: Sequence[ConceptView]
    has_figures: bool
    subjects: Sequence[SubjectView]
    comparisons: Sequence[ComparisonTable]
    weights: WeightsView
    controls: Table | None
    controls_summary: str
    not_checked: Table | None
    command: str
    repeat: Pairs
    settings: Pairs
    packages: Pairs
    seconds: Pairs


def page(result: AuditResult) -> Page:
    """Everything that the template prints. Strings are unescaped: the template escapes them."""
    findings = result.findings
    concepts = [concept_view(finding, anchor) for finding, anchor in zip(findings, anchors(findings), strict=True)]
    columns = [
        FindingColumn(view.name, f"#{view.anchor}", finding, [f"#{measured.anchor}" for measured in view.measured])
        for view, finding in zip(concepts, findings, strict=True)
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
        has_figures=any(view.knowledge.residual or view.knowledge.grid for view in concepts),
        subjects=list(subject_views(result)),
        comparisons=comparison_tables(columns) if len(columns) > 1 else [],
        weights=weights_view(result),
        controls=controls_table(concepts, findings),
        controls_summary=controls_summary(findings),
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
    """One anchor a finding, all different."""
    return distinct(anchor_of(finding) for finding in findings)


def anchor_of(finding: Finding) -> str:
    return "pair" if finding.concept is None else f"concept-{slug(finding.concept)}"


def concept_view(finding: Finding, anchor: str) -> ConceptView:
    verdict = text_of(finding)
    name = name_of(finding)
    rows = dot_rows(finding.measurements)
    measured = views(finding.measurements, anchor)
    return ConceptView(
        anchor=anchor,
        name=name,
        whole_pair=finding.concept is None,
        verdict=finding.verdict,
        label=verdict.label,
        meaning=verdict.meaning,
        reason=shorten(finding.reason, 2_000),
        note=shorten(finding.note, 2_000),
        error_rate=shorten(finding.error_rate, 1_000),
        would_reverse=shorten(finding.would_reverse, 2_000),
        knowledge=knowledge_view(finding, anchor),
        dots=charts.dots(f"{anchor}-dots", f"{name}: base, unlearned and controls", rows),
        falsifiers=falsifiers(finding),
        measured=measured,
        groups=grouped(finding.measurements, measured),
    )


def falsifiers(finding: Finding) -> Table | None:
    """Base and control of each test: they show that the test can have the opposite outcome."""
    rows = [
        [
            text(title_of(row, 60)),
            figure(row.value),
            figure(row.base),
            text(row.control.name, 80) if row.control else Cell("none recorded"),
            figure(row.control.value if row.control else None),
        ]
        for row in finding.measurements
        if row.value is not None and (row.control is not None or row.base is not None)
    ]
    columns = ["test", "unlearned", "same test on the base", "control", "control's value"]
    return Table("Controls: each test can have the opposite outcome", columns, rows) if rows else None


def subject_views(result: AuditResult) -> Iterable[SubjectView]:
    for role, subject in result.subjects:
        if subject is not None:
            yield subject_view(role, subject)


def subject_view(role: str, subject: SubjectRecord) -> SubjectView:
    files = [(shorten(f.name, 120), byte_size(f.bytes), shorten(f.sha256, 80)) for f in subject.files[:MOST_FILES]]
    more = len(subject.files) - len(files)
    total = byte_size(sum(file.bytes for file in subject.files))
    return SubjectView(
        role=role,
        facts=[
            ("path", shorten(subject.path)),
            ("format", shorten(subject.format)),
            ("family", shorten(subject.architecture or "not a known family")),
            ("parameters", integer(subject.parameters)),
            ("number format", shorten(subject.dtype)),
            ("files", f"{integer(len(subject.files))}, {total}"),
            ("digest of the tensors as loaded", shorten(subject.tensors_digest or "not computed", 80)),
            *(("note", shorten(note)) for note in subject.notes[:20]),
        ],
        files=files,
        more_files=f"and {integer(more)} more files, listed in the embedded result" if more else "",
    )


def controls_table(concepts: Sequence[ConceptView], findings: Sequence[Finding]) -> Table | None:
    """Every measured number with its uncertainty and its control."""
    rows = [
        [
            text(view.name, 40),
            Cell(measured.title, "", "t", measured.anchor),
            figure(row.value),
            bounds(row.interval),
            figure(row.n),
            figure(row.p_value),
            figure(row.control.value if row.control else None),
            bounds(row.control.interval if row.control else None),
        ]
        for view, finding in zip(concepts, findings, strict=True)
        for measured, row in zip(view.measured, finding.measurements, strict=True)
        if row.value is not None
    ]
    columns = ["concept", "test", "value", "interval", "n", "p-value", "control", "control's interval"]
    return capped("Every number with its uncertainty", columns, rows, len(rows)) if rows else None


def controls_summary(findings: Sequence[Finding]) -> str:
    measured = [row for finding in findings for row in finding.measurements if row.value is not None]
    if not measured:
        return "No concept was tested, so there is no control to show."
    sampled = sum(row.interval is not None for row in measured)
    share = percent(with_control(findings) / len(measured))
    return (
        f"{integer(len(measured))} numbers were measured; {integer(sampled)} have an interval and "
        f"{integer(with_control(findings))} ({share}) have a control."
    )


def not_checked_table(result: AuditResult) -> Table | None:
    titles = {finding.concept: name_of(finding, 60) for finding in result.findings}
    rows = [
        [
            text(row.metric.replace("_", " "), 60),
            text(titles.get(row.concept, row.concept) if row.concept is not None else "the pair", 60),
            Cell(shorten(row.reason, 600), "", "w"),
        ]
        for row in result.not_checked
    ]
    return capped("Tests that did not run", ["test", "concept", "reason"], rows, len(rows)) if rows else None
