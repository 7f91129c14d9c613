"""verify(): whether a result matches the files it names, and whether its numbers can be reproduced.

Steps run from cheap to expensive and stop at the first difference: consistency of the document, hashes of the model
files and of the guard, headers, digests of all tensors, a sample of the tensor table, verdicts. No model is run: the
recorded answers are accepted, and each verdict must follow from them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import torch

from audit.checkpoint import Checkpoint, TensorDigest, combine_digests
from audit.commands._result import describe_subject, digest_of, guard_name
from audit.commands.check import hash_file
from audit.knowledge.summary import Summary
from audit.metrics import weights_metrics
from audit.models.pair import ModelPair, open_pair
from audit.progress import SILENT, Progress
from audit.result import AuditResult, Difference, Finding, Measurement, SubjectRecord, Verification
from audit.verdict import Case, judge
from audit.weights.blocks import BLOCK_ELEMENTS, shared_tensor
from audit.weights.scan import equality, tensor_rows

SAMPLE: Final = 8
TOLERANCE: Final = 1e-5
"""Relative tolerance; sums on another processor differ by a few units in the last place of float32 (6e-8 each)."""
ABSENT: Final = "absent"

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
    """Verify the result at ``path`` against the files it names.

    Args:
        moved: ``"base"``, ``"unlearned"``, ``"retained"`` -> its current path, if it differs from the recorded one.
        config: folder with config.json, as given to the comparison.
        sample: number of tensors whose row is recomputed, changed tensors first.
        seed: seed of the sample.

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
    """(title, differences) of each step; a step starts only if the previous one has no differences."""
    yield "the document is consistent", _document(result)
    records = {role: record for role, record in result.subjects if record is not None}
    places = {role: moved.get(role, Path(record.path)) for role, record in records.items()}
    yield f"files of {', '.join(records)}: names, sizes, SHA-256", _files(records, places, progress)
    guard = _guard(result)
    if guard is not None and Path(guard["path"]).exists():
        digest = digest_of(Path(guard["path"]))["sha256"]
        yield "the guard's files: SHA-256", differences(guard["sha256"], digest, "run.settings.guard.sha256")
    pair = open_pair(places["base"], places["unlearned"], places.get("retained"), config)
    yield "the tensor table names the tensors that both models have", _headers(result, pair)
    read = {role: _digest_all(checkpoint, role, progress) for role, checkpoint in _models(pair).items()}
    yield "digests of all tensors as loaded", _digests(result, pair, read)
    names = _sample(result, sample, seed)
    progress.step("Comparing a sample of tensors again")
    yield f"numbers of {len(names)} of {len(result.weights.per_tensor)} tensors", _numbers(result, pair, names)
    yield "verdicts follow from the recorded measurements", _verdicts(result, pair, read)


# ---- the document alone


def _document(result: AuditResult) -> Iterator[Difference]:
    """Compares the recorded counts with the rows they count."""
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
        for index, file in enumerate(record.files):
            field = f"subjects.{role}.files[{index}]"
            path = place if place.is_file() else place / file.name
            if Path(file.name).name != file.name or not path.is_file():
                yield Difference(f"{field}.name", file.name, f"{ABSENT} in {place}")
                continue
            yield from differences(file.bytes, path.stat().st_size, f"{field}.bytes")
            yield from differences(file.sha256, hash_file(path, progress), f"{field}.sha256")


def _guard(result: AuditResult) -> Document | None:
    """The guard's entry in the settings, if the result records its digest."""
    guard = result.run.settings.get("guard")
    return guard if isinstance(guard, dict) and guard.get("path") and guard.get("sha256") else None


# ---- the tensors


@dataclass(frozen=True)
class _TensorDigests:
    """One model's tensor digests by name, and the names of tensors with non-finite values."""

    digests: Mapping[str, bytes]
    nonfinite: list[str]


def _models(pair: ModelPair) -> dict[str, Checkpoint]:
    return {role: model.checkpoint for role, model in pair.models.items()}


def _digest_all(checkpoint: Checkpoint, role: str, progress: Progress) -> _TensorDigests:
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
    return _TensorDigests(digests, nonfinite)


def _headers(result: AuditResult, pair: ModelPair) -> Iterator[Difference]:
    """Compares the subjects and the rows of the tensor table with the headers."""
    for role, checkpoint in _models(pair).items():
        recorded = getattr(result.subjects, role)
        subject = describe_subject(pair, checkpoint, recorded.tensors_digest)
        field, other_steps = f"subjects.{role}", {"path", "notes", "tensors_digest", "files"}
        yield from differences(recorded.model_dump(exclude=other_steps), subject.model_dump(exclude=other_steps), field)
        if checkpoint.path.is_dir():
            names, recorded_names = ([file.name for file in record.files] for record in (subject, recorded))
            yield from differences(recorded_names, names, f"{field}.files")
    rows = result.weights.per_tensor
    yield from differences([row.name for row in rows], [*pair.shared, *pair.views], "weights.per_tensor")
    for field, names in zip(("only_base", "only_unlearned"), pair.unpaired(), strict=True):
        yield from differences(getattr(result.weights, field), names, f"weights.{field}")
    for row in rows:
        header = shared_tensor(pair, row.name).header
        yield from differences(row.model_dump(include=set(header)), header, f"weights.per_tensor[{row.name}]")


def _digests(result: AuditResult, pair: ModelPair, read: Mapping[str, _TensorDigests]) -> Iterator[Difference]:
    """Compares each subject's digest, ``changed`` of each row whose tensor has the same dtype in both models, and
    whether the weights are equal."""
    for role, tensors in read.items():
        recorded = getattr(result.subjects, role).tensors_digest
        yield from differences(recorded, combine_digests(tensors.digests.items()), f"subjects.{role}.tensors_digest")
    base, unlearned = read["base"].digests, read["unlearned"].digests
    for row in result.weights.per_tensor:
        if row.name not in pair.shared:
            continue
        _, base_dtype, unlearned_dtype = pair.layout(row.name)
        if base_dtype == unlearned_dtype:
            changed = base[row.name] != unlearned[row.name]
            yield from differences(row.changed, changed, f"weights.per_tensor[{row.name}].changed")
    weights = result.weights
    if weights.identical is not None:
        identical, equal_at_coarser = equality(pair, weights.changed_tensors)
        yield from differences(weights.identical, identical, "weights.identical")
        yield from differences(weights.equal_at_coarser, equal_at_coarser, "weights.equal_at_coarser")


def _sample(result: AuditResult, size: int, seed: int) -> list[str]:
    """Names of ``size`` tensors, drawn from the changed ones first, then from the others."""
    rows, draw = result.weights.per_tensor, random.Random(seed)
    groups = [[row.name for row in rows if row.changed is changed] for changed in (True, False)]
    return [name for group in groups for name in draw.sample(group, len(group))][:size]


def _numbers(result: AuditResult, pair: ModelPair, names: Sequence[str]) -> Iterator[Difference]:
    recorded = {row.name: row for row in result.weights.per_tensor}
    for row in tensor_rows(pair, weights_metrics(), names):
        stored = json.loads(row.model_dump_json())  # as in a file: null where not finite
        yield from differences(recorded[row.name].model_dump(), stored, f"weights.per_tensor[{row.name}]")


# ---- the verdicts


def _verdicts(result: AuditResult, pair: ModelPair, read: Mapping[str, _TensorDigests]) -> Iterator[Difference]:
    """Compares each verdict with the one its measurements give; its sentences too, if their inputs are recorded."""
    compared = (*pair.shared, *pair.views)
    nonfinite = {role: [name for name in compared if name in read[role].nonfinite] for role in ("base", "unlearned")}
    identical, equal_at_coarser = equality(pair, result.weights.changed_tensors)
    for index, finding in enumerate(result.findings):
        first: dict[str, Measurement] = {}
        under_attack = [row for row in finding.measurements if first.setdefault(row.metric, row) is not row]
        case = Case(
            title=finding.title if finding.concept is not None else None,
            measurements=first,
            under_attack=under_attack,
            identical=identical,
            equal_at_coarser=equal_at_coarser,
            guard=guard_name(result.run.settings.get("guard")),
            nonfinite=nonfinite,
            missing=pair.base.missing if finding.concept is None else {},
            summary=None
            if finding.known is None
            else Summary(finding.known, finding.conditions, finding.residual, finding.facts, finding.recovery),
        )
        fields = {"verdict", "kind", "reason", "would_reverse"} if _is_complete(case) else {"verdict"}
        judged = judge(finding.concept, case)
        yield from differences(_only(finding, fields), _only(judged, fields), f"findings[{index}]")


def _is_complete(case: Case) -> bool:
    """Whether the sentences can be reproduced; some name missing inputs, which the result does not record."""
    weights_decide = any(case.nonfinite.values()) or case.identical
    return weights_decide or case.title is None or case.summary is not None


def _only(finding: Finding, fields: set[str]) -> Document:
    return {name: getattr(finding, name) for name in ("verdict", "kind", "reason", "would_reverse") if name in fields}


# ---- comparing


def differences(recorded: Any, actual: Any, field: str) -> Iterator[Difference]:
    """Fields in which two JSON values differ, in order; floats may differ by ``TOLERANCE``."""
    if isinstance(recorded, Mapping) and isinstance(actual, Mapping):
        for name in dict.fromkeys([*recorded, *actual]):
            yield from differences(recorded.get(name, ABSENT), actual.get(name, ABSENT), f"{field}.{name}")
    elif isinstance(recorded, list) and isinstance(actual, list):
        for index, (one, other) in enumerate(zip_longest(recorded, actual, fillvalue=ABSENT)):
            yield from differences(one, other, f"{field}[{index}]")
    elif isinstance(recorded, float) and isinstance(actual, float):
        if not math.isclose(recorded, actual, rel_tol=TOLERANCE):
            yield Difference(field, recorded, actual)
    elif recorded != actual:
        yield Difference(field, recorded, actual)


def _notes(result: AuditResult) -> Iterator[str]:
    yield "the models' answers and the layer and neuron tables are not verified; they are accepted as recorded"
    if (guard := _guard(result)) is not None and not Path(guard["path"]).exists():
        yield f"the guard was not verified: {guard['path']} no longer exists"
    ours = version("unlearning-audit")
    if result.tool.version != ours:
        yield f"the result was written by version {result.tool.version}, verified by {ours}"
