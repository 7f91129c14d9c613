"""Parts of a result that several commands share: subjects, settings, omitted measurements, timing."""

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
from typing import Any, Final

import torch

from audit.checkpoint import Checkpoint
from audit.errors import AuditError
from audit.models.opening import OpenedModel
from audit.models.pair import ModelPair
from audit.questions.skill_queries import SkillTopic
from audit.questions.topics import Topic
from audit.result import AuditResult, Finding, NotChecked, Run, SubjectRecord, Subjects, Tool
from audit.settings import Settings
from audit.weights.scan import WeightScan

PACKAGES: Final = ("torch", "transformers", "numpy", "scipy", "tokenizers")


def as_result(
    pair: ModelPair, weights: WeightScan, findings: Sequence[Finding], run: Run, unchecked: Sequence[NotChecked] = ()
) -> AuditResult:
    """The result: findings, subjects, and everything that was not measured.

    Args:
        unchecked: further measurements that were not made.
    """
    subjects: dict[str, SubjectRecord] = {
        role: describe_subject(pair, model.checkpoint, weights.digests[role]) for role, model in pair.models.items()
    }
    if pair.reference is not None:
        subjects["reference"] = describe_subject(pair.reference, pair.reference.checkpoint, "")
    for role, subject in subjects.items():
        subject.notes.extend(notes_of(pair, role))
    return AuditResult(
        tool=Tool(name="unlearning-audit", version=version("unlearning-audit")),
        run=run,
        subjects=Subjects(**subjects),
        weights=weights.weights,
        findings=list(findings),
        not_checked=[*not_checked(weights, findings), *unchecked],
    )


def not_checked(weights: WeightScan, findings: Sequence[Finding]) -> Iterator[NotChecked]:
    """All measurements that were not made, each with its reason."""
    for measurement in weights.weights.measurements:
        if measurement.not_measured:
            yield NotChecked(metric=measurement.metric, concept=None, reason=measurement.not_measured)
    for finding in findings:
        for measurement in finding.measurements:
            if measurement.not_measured:
                yield NotChecked(metric=measurement.metric, concept=finding.concept, reason=measurement.not_measured)
        for attack in finding.not_run:
            yield NotChecked(
                metric=attack.attack, concept=finding.concept, reason=f"{attack.model} model: {attack.reason}"
            )


def notes_of(pair: ModelPair, role: str) -> list[str]:
    """The notes on one model of the pair; what concerns two of them is noted for the unlearned one."""
    roles = (*pair.models, "reference")
    own = [note.removeprefix(f"{role}: ") for note in pair.notes if note.startswith(f"{role}: ")]
    shared = [note for note in pair.notes if not note.startswith(tuple(f"{each}: " for each in roles))]
    return own + (shared if role == "unlearned" else [])


def describe_subject(model: ModelPair | OpenedModel, checkpoint: Checkpoint, tensors_digest: str) -> SubjectRecord:
    """The record of one audited checkpoint, of a pair or alone."""
    dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in checkpoint.tensors.values()})
    return SubjectRecord(
        path=str(checkpoint.path),
        format=checkpoint.format,
        files=checkpoint.file_records(),
        tensors_digest=tensors_digest,
        architecture=model.architecture.name if model.architecture else None,
        parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        dtype=", ".join(dtypes),
        notes=list(checkpoint.notes),
    )


def settings_of(topics: Sequence[Topic], guard: Mapping[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """All settings that determine the numbers, with a digest of the questions of each topic and its reader's notes."""
    digests = [{"name": topic.name, "sha256": topic.digest()} | _notes(topic) for topic in topics]
    skills = [isinstance(topic, SkillTopic) for topic in topics]
    return {
        **settings.as_json(),
        "concepts": [digest for digest, skill in zip(digests, skills, strict=True) if not skill],
        "skills": [digest for digest, skill in zip(digests, skills, strict=True) if skill],
        "guard": guard,
    }


def _notes(topic: Topic) -> dict[str, list[str]]:
    return {"notes": list(topic.concept.notes)} if topic.concept is not None and topic.concept.notes else {}


def digest_of(path: Path) -> dict[str, Any]:
    """A guard's path and SHA-256, for the record in the result.

    Raises:
        AuditError: the path does not exist or contains no file.
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
    """The name of the guard in ``run.settings["guard"]`` for a verdict: its file or folder, or its method."""
    if not isinstance(recorded, Mapping):
        return None
    path = recorded.get("path")
    return Path(str(path)).name if path is not None else f"{recorded.get('method')}, not saved"


@dataclass
class Stopwatch:
    """Start time of a run and the duration of its parts."""

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
