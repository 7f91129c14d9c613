"""check(): are these checkpoints whole, safe and comparable, and what could an audit of them do? Headers and hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from audit.architectures import Architecture, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.checkpoint.pair import ModelPair, open_pair
from audit.checkpoint.signature import Trust, signatures
from audit.commands.plan import plan_pair, possible
from audit.errors import AuditError
from audit.evidence import has_tokenizer
from audit.progress import SILENT, Progress
from audit.result import Check, FileCheck, PathCheck

CHUNK: Final = 1 << 24  # bytes between two signs of progress
SIZES: Final = ("n_layers", "d_model", "d_mlp", "d_vocab")


def check(
    paths: Sequence[Path],
    *,
    concepts: Sequence[str] = (),
    config: Path | None = None,
    tokenizer: Path | None = None,
    hashes: bool = True,
    trust: Trust = Trust(),
    progress: Progress = SILENT,
) -> Check:
    """Look at each path as an audit would before its slow work.

    Reads headers, and whole files for their hashes. Tensor values are read in one case: a head stored beside its
    embedding is compared with it, up to the first difference, to tell whether the two are tied.

    Args:
        concepts: what the estimate of time and memory would ask the models about.
        config, tokenizer: folders, where they do not lie beside the weights.
        trust: whose signature on the files is believed.

    Raises:
        AuditError: a config or a concept that was named and cannot be used. A bad path is reported, not raised.
    """
    given = read_config(config) if config is not None else None
    found: list[PathCheck] = []
    opened: list[Checkpoint | None] = []
    for path in paths:
        seen, checkpoint = _look(path, opened[0] if opened else None, given, hashes, trust, progress)
        found.append(seen)
        opened.append(checkpoint)
    pair: ModelPair | None = None
    for at in range(1, len(paths)):
        if opened[0] is None or opened[at] is None:
            continue
        found[at], other = _against(found[at], paths[0], paths[at], config)
        pair = pair or other
    stopped = next((entry.problem for entry in found if entry.problem is not None), None)
    if stopped is not None:
        return Check(tuple(found), (), None, stopped)
    try:
        pair = pair or open_pair(paths[0], paths[0], None, config)
        metrics = possible(pair, config=config, tokenizer=tokenizer)
        plan = plan_pair(pair, concepts=concepts, config=config, tokenizer=tokenizer)
    except AuditError as error:
        return Check(tuple(found), (), None, str(error))
    return Check(tuple(found), tuple(metrics), plan, None)


def hash_file(path: Path, progress: Progress = SILENT) -> str:
    """SHA-256 of a file, with a sign of life for every ``CHUNK`` bytes."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            progress.step(f"Hashing {path.name}", done, total)
            digest.update(block)
            done += len(block)
    return digest.hexdigest()


def _look(
    path: Path, base: Checkpoint | None, given: dict[str, Any] | None, hashes: bool, trust: Trust, progress: Progress
) -> tuple[PathCheck, Checkpoint | None]:
    """One path by itself (an adapter: merged into ``base``), and the checkpoint where an audit would read it."""
    try:
        checkpoint = open_checkpoint(path, base)
        config = given if given is not None else own_config(checkpoint)
        architecture = identify(checkpoint, config)
        files = tuple(
            FileCheck(file.name, file.stat().st_size, hash_file(file, progress) if hashes else None)
            for file in checkpoint.files
        )
    except AuditError as error:
        return PathCheck(str(path), refused=str(error)), None
    progress.step("Looking for signatures")
    signed = tuple(signatures(path, trust))
    return replace(_describe(checkpoint, config, architecture, files), signatures=signed), checkpoint


def _describe(
    checkpoint: Checkpoint,
    config: dict[str, Any] | None,
    architecture: Architecture | None,
    files: tuple[FileCheck, ...],
) -> PathCheck:
    counts = [math.prod(info.shape) for info in checkpoint.tensors.values()]
    notes = (*checkpoint.notes, *(architecture.notes if architecture else ()))
    return PathCheck(
        path=str(checkpoint.path),
        format=checkpoint.format,
        files=files,
        tensors=len(counts),
        parameters=sum(counts),
        largest=max(counts, default=0),
        dtypes=tuple(sorted({str(info.dtype).removeprefix("torch.") for info in checkpoint.tensors.values()})),
        family=architecture.name if architecture else None,
        sizes={name: getattr(architecture, name) for name in SIZES} if architecture else None,
        unknown=None if architecture else why_unknown(checkpoint, config),
        config=config is not None,
        tokenizer=has_tokenizer(checkpoint),
        notes=notes,
    )


def _against(seen: PathCheck, base: Path, path: Path, config: Path | None) -> tuple[PathCheck, ModelPair | None]:
    """What was seen of ``path`` together with whether it is a version of ``base``."""
    try:
        pair = open_pair(base, path, None, config)
    except AuditError as error:
        return replace(seen, comparable=False, differences=str(error)), None
    notes = dict.fromkeys((*seen.notes, *pair.notes))
    return replace(seen, comparable=True, notes=tuple(notes)), pair
