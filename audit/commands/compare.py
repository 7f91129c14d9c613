"""compare(): two or three checkpoints in, one AuditResult out. The whole flow is ``compare`` itself."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from audit import evidence as gather
from audit.checkpoint import Checkpoint
from audit.errors import AuditError
from audit.guards.attack import attack_guard
from audit.guards.saving import SavedGuard, open_guard
from audit.metrics import concept_metrics, weights_metrics
from audit.metrics.contract import Subjects as Gathered
from audit.models.pair import ModelPair, open_pair
from audit.progress import SILENT, Progress
from audit.questions.skill_queries import SkillQuestions, skill_questions
from audit.result import (
    AuditResult,
    Finding,
    Measurement,
    NotChecked,
    Run,
    SubjectRecord,
    Subjects,
    Tool,
)
from audit.settings import Settings
from audit.verdict import RECOVERY_TESTS, Evidence, judge
from audit.weights.comparison import compare_weights
from audit.weights.scan import WeightScan
from concepts.concept import Concept

PACKAGES = ("torch", "transformers", "numpy", "scipy", "tokenizers")


def compare(
    base: Path | str,
    unlearned: Path | str,
    *,
    concepts: Sequence[str] = (),
    translations: Path | None = None,
    skills: Sequence[Path] = (),
    retained: Path | str | None = None,
    guard: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    settings: Settings = Settings(),
    progress: Progress = SILENT,
    command: str = "",
) -> AuditResult:
    """Audit ``unlearned`` against ``base``: what changed in the weights, and what is left of each concept.

    Args:
        base, unlearned, retained: weight files or folders.
        concepts: library names or concept files.
        translations: a file of every concept's questions in German (``concepts.jailbreaks.translated``).
        skills: files of queries (``concepts.skill``), each held against the others, a single one against unrelated
            questions.
        guard: a file or folder of the protection served around the unlearned weights; one of this tool is attacked,
            any other recorded.
        config, tokenizer: folders, where they do not lie beside the weights.

    Raises:
        AuditError: an input that cannot be audited, in one line.
    """
    clock = Stopwatch()
    chosen = gather.load_concepts(concepts, translations)
    trained = skill_questions(skills, settings.seed, settings.limit, settings.run_code)
    gather.refuse_twice([*chosen, *(skill.topic for skill in trained)])
    protection = digest_of(guard) if guard is not None else None
    saved = open_guard(guard)
    pair = open_pair(Path(base), Path(unlearned), Path(retained) if retained else None, config, tokenizer)
    if settings.known_vectors:
        gather.check_known_vectors(chosen, pair.architecture)
    with clock.measuring("weights"):
        weights = compare_weights(pair, weights_metrics(), pair.tokenizer, progress)
    with clock.measuring("readings"):
        gathered = gather.collect(pair, chosen, weights, settings, progress, trained)
    with clock.measuring("metrics"):
        topics = [*chosen, *(skill.topic for skill in trained)]
        findings = [find_out(topic, gathered[topic.name], weights, guard) for topic in topics]
        findings[len(chosen) :] = [as_of_a_skill(finding) for finding in findings[len(chosen) :]]
        attacked = attack(pair, saved, weights.identical, settings, progress)
        if attacked or not findings:
            findings.append(judge(None, whole_pair(weights, guard, attacked)))
    return as_result(pair, weights, findings, clock.record(command, settings_of(chosen, trained, protection, settings)))


def as_result(
    pair: ModelPair, weights: WeightScan, findings: Sequence[Finding], run: Run, unchecked: Sequence[NotChecked] = ()
) -> AuditResult:
    """What was found, with the bytes it speaks of and everything that was not measured.

    Args:
        unchecked: what was left out besides.
    """
    return AuditResult(
        tool=Tool(name="unlearning-audit", version=version("unlearning-audit")),
        run=run,
        subjects=Subjects(
            base=describe(pair, pair.base.checkpoint, weights.digests["base"]),
            unlearned=describe(pair, pair.unlearned.checkpoint, weights.digests["unlearned"]),
            retained=describe(pair, pair.retained.checkpoint, weights.digests["retained"]) if pair.retained else None,
        ),
        weights=weights.weights,
        findings=list(findings),
        not_checked=[*not_checked(weights, findings), *unchecked],
    )


def find_out(concept: Concept, subjects: Gathered, weights: WeightScan, guard: Path | None) -> Finding:
    """Every metric over one concept, and the verdict on it."""
    measurements = {name: measure(name, subjects, concept) for name in concept_metrics()}
    evidence = Evidence(
        title=concept.title,
        measurements=measurements,
        identical=weights.identical,
        guard=guard.name if guard else None,
        nonfinite=weights.nonfinite,
        missing=subjects.missing,
    )
    return judge(concept.name, evidence)


def as_of_a_skill(finding: Finding) -> Finding:
    """The same in a skill's words."""
    renamed = [
        found.model_copy(update={"title": found.title.replace("the concept", "the skill")})
        for found in finding.measurements
    ]
    return finding.model_copy(update={"measurements": renamed})


def measure(name: str, subjects: Gathered, concept: Concept) -> Measurement:
    """One metric, or the reason why its inputs are not there."""
    metric = concept_metrics()[name]
    absent = dict.fromkeys(subjects.missing[need] for need in sorted(metric.NEEDS) if need in subjects.missing)
    if absent:
        return Measurement(metric=name, title=metric.TITLE, not_measured="; ".join(absent))
    measured: Measurement = metric.measure(subjects, concept)
    return measured


def attack(
    pair: ModelPair,
    guard: SavedGuard | None,
    identical: bool,
    settings: Settings,
    progress: Progress,
) -> list[Measurement]:
    """What can be said of a guard of this tool; nothing of any other."""
    if guard is None:
        return []
    return attack_guard(guard, pair.unlearned, None if identical else pair.base, settings, progress)


def whole_pair(weights: WeightScan, guard: Path | None, attacked: Sequence[Measurement] = ()) -> Evidence:
    """What can be said where no concept was named."""
    return Evidence(
        title=None,
        measurements={measurement.metric: measurement for measurement in attacked},
        identical=weights.identical,
        guard=guard.name if guard else None,
        nonfinite=weights.nonfinite,
    )


def not_checked(weights: WeightScan, findings: Sequence[Finding]) -> Iterator[NotChecked]:
    """Everything that could have been measured and was not, each with its reason."""
    for measurement in weights.weights.measurements:
        if measurement.not_measured:
            yield NotChecked(metric=measurement.metric, concept=None, reason=measurement.not_measured)
    for finding in findings:
        for measurement in finding.measurements:
            if measurement.not_measured:
                yield NotChecked(metric=measurement.metric, concept=finding.concept, reason=measurement.not_measured)
    yield NotChecked(
        metric="recovery",
        concept=None,
        reason=f"this version does not try to bring knowledge back ({RECOVERY_TESTS})",
    )


def describe(pair: ModelPair, checkpoint: Checkpoint, tensors_digest: str) -> SubjectRecord:
    """Which bytes were audited, and what they are."""
    dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in checkpoint.tensors.values()})
    return SubjectRecord(
        path=str(checkpoint.path),
        format=checkpoint.format,
        files=checkpoint.file_records(),
        tensors_digest=tensors_digest,
        architecture=pair.architecture.name if pair.architecture else None,
        parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        dtype=", ".join(dtypes),
        notes=list(checkpoint.notes),
    )


def settings_of(
    concepts: Sequence[Concept], skills: Sequence[SkillQuestions], guard: dict[str, Any] | None, settings: Settings
) -> dict[str, Any]:
    """Every setting that decides the numbers, with a digest of what each concept and skill asks."""
    asked = [
        {"name": concept.name, "sha256": hashlib.sha256(concept.model_dump_json().encode()).hexdigest()}
        for concept in concepts
    ]
    queries = [{"name": skill.topic.name, "sha256": skill.digest()} for skill in skills]
    return {**settings.as_json(), "concepts": asked, "skills": queries, "guard": guard}


def digest_of(path: Path) -> dict[str, Any]:
    """A guard's name and SHA-256, so that the report says which protection was meant.

    Raises:
        AuditError: nothing lies there.
    """
    files = sorted(entry for entry in (path.rglob("*") if path.is_dir() else [path]) if entry.is_file())
    if not files:
        raise AuditError("no such guard.", where=str(path), hint="Pass the file or folder of the protection.")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return {"path": str(path), "sha256": digest.hexdigest()}


def guard_name(recorded: Any) -> str | None:
    """The protection of ``run.settings["guard"]`` as a verdict names it: its file or folder, or its method."""
    if not isinstance(recorded, Mapping):
        return None
    path = recorded.get("path")
    return Path(str(path)).name if path is not None else f"{recorded.get('method')}, not saved"


@dataclass
class Stopwatch:
    """When the run started, and how long its parts took."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - before, 3)

    def record(self, command: str, settings: Mapping[str, Any]) -> Run:
        return Run(
            command=command,
            settings=dict(settings),
            seed=settings["seed"],
            device=settings["device"],
            dtype=settings["dtype"],
            threads=torch.get_num_threads(),
            started=self.started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=self.seconds,
            packages={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        )
