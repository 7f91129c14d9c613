"""verify(): does a result still speak of the files it names, and do its numbers come out again?

From the cheapest to the dearest: the document against itself, the files' hashes and the guard's, what the headers say,
the tensors' digests, a sample of the tensor table, the verdicts. The first difference ends it. The models are not asked
again: what they answered is taken as recorded, and a verdict must follow from it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from audit.checkpoint import Checkpoint, TensorDigest, combine_digests
from audit.checkpoint.pair import ModelPair, open_pair
from audit.commands.check import hash_file
from audit.commands.compare import describe, digest_of, guard_name
from audit.metrics import weights_metrics
from audit.progress import SILENT, Progress
from audit.result import AuditResult, Difference, Finding, SubjectRecord, Verification
from audit.verdict import Evidence, judge
from audit.weights.blocks import BLOCK_ELEMENTS, shared_tensor
from audit.weights.scan import tensor_rows

SAMPLE: Final = 8
TOLERANCE: Final = 1e-5
"""Relative: the same sums on another processor differ by a few units of float32's last place (6e-8 each)."""
ABSENT: Final = "absent"
TENSOR_HEADER: Final = ("name", "role", "layer", "shape", "dtype")

Document = Mapping[str, Any]


def verify(
    path: Path,
    *,
    moved: Mapping[str, Path] | None = None,
    config: Path | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Verification:
    """Verify ``path``, a result, against the files it names.

    Args:
        moved: ``"base"``, ``"unlearned"``, ``"retained"`` -> where it lies now, if not where the result says.
        config: folder with config.json, as it was given to the comparison.
        sample: how many tensors' numbers are computed again, changed ones first.
        seed: which ones.

    Raises:
        AuditError: a result that cannot be read, or files with the recorded hashes that cannot be opened.
    """
    result = AuditResult.read(path)
    verified: list[str] = []
    difference = None
    for title, differences in _steps(result, moved or {}, config, sample, seed, progress):
        difference = next(differences, None)
        if difference is not None:
            break
        verified.append(title)
    return Verification(str(path), tuple(verified), difference, tuple(_notes(result)))


def _steps(
    result: AuditResult, moved: Mapping[str, Path], config: Path | None, sample: int, seed: int, progress: Progress
) -> Iterator[tuple[str, Iterator[Difference]]]:
    """Each step's title and what differs in it; a step begins when the one before has held."""
    yield "the document agrees with itself", _document(result)
    records = {role: record for role, record in result.subjects if record is not None}
    places = {role: moved.get(role, Path(record.path)) for role, record in records.items()}
    yield f"files of {', '.join(records)}: names, sizes, SHA-256", _files(records, places, progress)
    guard = _guard(result)
    if guard is not None and Path(guard["path"]).exists():
        found = digest_of(Path(guard["path"]))
        yield "the guard's files: SHA-256", differences(guard["sha256"], found["sha256"], "run.settings.guard.sha256")
    pair = open_pair(places["base"], places["unlearned"], places.get("retained"), config)
    yield "the tensor table names the tensors that both models have", _headers(result, pair)
    read = {role: _read(checkpoint, role, progress) for role, checkpoint in _models(pair).items()}
    yield "digests of all tensors as loaded", _digests(result, pair, read)
    names = _sample(result, sample, seed)
    progress.step("Comparing a sample of tensors again")
    yield f"numbers of {len(names)} of {len(result.weights.per_tensor)} tensors", _numbers(result, pair, names)
    yield "verdicts follow from the recorded measurements", _verdicts(result, pair, read)


# ---- the document alone


def _document(result: AuditResult) -> Iterator[Difference]:
    """Counts against the rows they count."""
    weights = result.weights
    changed, total = sum(row.changed for row in weights.per_tensor), len(weights.per_tensor)
    counted = {
        "changed_tensors": changed,
        "total_tensors": total,
        "changed_fraction": changed / total if total else None,
    }
    yield from differences({name: getattr(weights, name) for name in counted}, counted, "weights")
    listed = {(row.metric, row.concept) for row in result.not_checked}
    for finding in result.findings:
        for row in finding.measurements:
            if row.not_measured and (row.metric, finding.concept) not in listed:
                where = f"{row.metric} of {finding.concept}" if finding.concept else row.metric
                yield Difference("not_checked", f"no row for {where}", row.not_measured)


# ---- the files


def _files(
    records: Mapping[str, SubjectRecord], places: Mapping[str, Path], progress: Progress
) -> Iterator[Difference]:
    for role, record in records.items():
        place = places[role]
        for at, file in enumerate(record.files):
            field = f"subjects.{role}.files[{at}]"
            path = place if place.is_file() else place / file.name
            if Path(file.name).name != file.name or not path.is_file():
                yield Difference(f"{field}.name", file.name, f"{ABSENT} in {place}")
                continue
            yield from differences(file.bytes, path.stat().st_size, f"{field}.bytes")
            yield from differences(file.sha256, hash_file(path, progress), f"{field}.sha256")


def _guard(result: AuditResult) -> Document | None:
    """The protection that the result names with its digest."""
    guard = result.run.settings.get("guard")
    return guard if isinstance(guard, dict) and guard.get("path") and guard.get("sha256") else None


# ---- the tensors


@dataclass(frozen=True)
class _Read:
    """Digests of one model's tensors by name, and the names of those with values that are not finite."""

    digests: Mapping[str, bytes]
    nonfinite: list[str]


def _models(pair: ModelPair) -> dict[str, Checkpoint]:
    models = {"base": pair.base, "unlearned": pair.unlearned, "retained": pair.retained}
    return {role: checkpoint for role, checkpoint in models.items() if checkpoint is not None}


def _read(checkpoint: Checkpoint, role: str, progress: Progress) -> _Read:
    digests, nonfinite = {}, []
    for done, (name, info) in enumerate(checkpoint.tensors.items()):
        progress.step(f"Reading {role}", done, len(checkpoint.tensors))
        digest, finite = TensorDigest(info), True
        for block in checkpoint.blocks(name, BLOCK_ELEMENTS):
            digest.update(block)
            finite = finite and bool(torch.isfinite(block).all())
        digests[name] = digest.digest()
        if not finite:
            nonfinite.append(name)
    return _Read(digests, nonfinite)


def _headers(result: AuditResult, pair: ModelPair) -> Iterator[Difference]:
    """What the headers say of each subject and each row, apart from the digest."""
    for role, checkpoint in _models(pair).items():
        recorded = getattr(result.subjects, role)
        found = describe(pair, checkpoint, recorded.tensors_digest)
        apart = {"path", "notes", "tensors_digest", "files"}
        yield from differences(recorded.model_dump(exclude=apart), found.model_dump(exclude=apart), f"subjects.{role}")
        names = [file.name for file in found.files]
        if checkpoint.path.is_dir():
            yield from differences([file.name for file in recorded.files], names, f"subjects.{role}.files")
    rows = result.weights.per_tensor
    yield from differences([row.name for row in rows], [*pair.shared, *pair.views], "weights.per_tensor")
    for row in rows:
        tensor = shared_tensor(pair, row.name)
        found_row = {
            "name": tensor.name,
            "role": tensor.role,
            "layer": tensor.layer,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        yield from differences(row.model_dump(include=set(TENSOR_HEADER)), found_row, f"weights.per_tensor[{row.name}]")


def _digests(result: AuditResult, pair: ModelPair, read: Mapping[str, _Read]) -> Iterator[Difference]:
    """One digest a subject; and each row's ``changed``, where both models store the tensor in one number format."""
    for role, found in read.items():
        recorded = getattr(result.subjects, role).tensors_digest
        yield from differences(recorded, combine_digests(found.digests.items()), f"subjects.{role}.tensors_digest")
    base, unlearned = read["base"].digests, read["unlearned"].digests
    for row in result.weights.per_tensor:
        if row.name in pair.shared and pair.base.tensors[row.name].dtype == pair.unlearned.tensors[row.name].dtype:
            changed = base[row.name] != unlearned[row.name]
            yield from differences(row.changed, changed, f"weights.per_tensor[{row.name}].changed")


def _sample(result: AuditResult, size: int, seed: int) -> list[str]:
    """Names of ``size`` tensors drawn among the changed ones, then among the others."""
    rows, draw = result.weights.per_tensor, random.Random(seed)
    groups = [[row.name for row in rows if row.changed is changed] for changed in (True, False)]
    return [name for group in groups for name in draw.sample(group, len(group))][:size]


def _numbers(result: AuditResult, pair: ModelPair, names: Sequence[str]) -> Iterator[Difference]:
    recorded = {row.name: row for row in result.weights.per_tensor}
    for row in tensor_rows(pair, weights_metrics(), names):
        found = json.loads(row.model_dump_json())  # as a file would hold it: null where not finite
        yield from differences(recorded[row.name].model_dump(), found, f"weights.per_tensor[{row.name}]")


# ---- the verdicts


def _verdicts(result: AuditResult, pair: ModelPair, read: Mapping[str, _Read]) -> Iterator[Difference]:
    """Each verdict from its own measurements; its sentence too, unless that names inputs the result leaves out."""
    compared = (*pair.shared, *pair.views)
    nonfinite = {role: [name for name in compared if name in read[role].nonfinite] for role in ("base", "unlearned")}
    same_names = pair.base.tensors.keys() == pair.unlearned.tensors.keys()
    identical = result.weights.changed_tensors == 0 and same_names
    for at, finding in enumerate(result.findings):
        evidence = Evidence(
            title=finding.title if finding.concept is not None else None,
            measurements={row.metric: row for row in finding.measurements},
            identical=identical,
            guard=guard_name(result.run.settings.get("guard")),
            nonfinite=nonfinite,
        )
        fields = {"verdict", "reason", "would_reverse"} if _is_complete(evidence) else {"verdict"}
        found = judge(finding.concept, evidence)
        yield from differences(_only(finding, fields), _only(found, fields), f"findings[{at}]")


def _is_complete(evidence: Evidence) -> bool:
    """Whether the sentence can be written again: absent inputs are named in it and not kept in the result."""
    weights_decide = any(evidence.nonfinite.values()) or evidence.identical
    return weights_decide or evidence.title is None or evidence.measured("exact_memorisation") is not None


def _only(finding: Finding, fields: set[str]) -> Document:
    return {name: getattr(finding, name) for name in ("verdict", "reason", "would_reverse") if name in fields}


# ---- comparing


def differences(recorded: Any, found: Any, field: str) -> Iterator[Difference]:
    """Fields in which two JSON values differ, in order; floats are equal within ``TOLERANCE``."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys([*recorded, *found]):
            yield from differences(recorded.get(name, ABSENT), found.get(name, ABSENT), f"{field}.{name}")
    elif isinstance(recorded, list) and isinstance(found, list):
        for at in range(max(len(recorded), len(found))):
            one, other = (entries[at] if at < len(entries) else ABSENT for entries in (recorded, found))
            yield from differences(one, other, f"{field}[{at}]")
    elif isinstance(recorded, float) and isinstance(found, float):
        if not math.isclose(recorded, found, rel_tol=TOLERANCE):
            yield Difference(field, recorded, found)
    elif recorded != found:
        yield Difference(field, recorded, found)


def _notes(result: AuditResult) -> Iterator[str]:
    yield "what the models answered, and the layer and neuron tables, are taken as recorded"
    if (guard := _guard(result)) is not None and not Path(guard["path"]).exists():
        yield f"the guard is no longer in {guard['path']}: it was not verified"
    ours = version("unlearning-audit")
    if result.tool.version != ours:
        yield f"the result was written by version {result.tool.version}, verified by {ours}"
