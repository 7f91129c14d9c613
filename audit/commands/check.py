"""check(): whether checkpoints are intact, safe and comparable, and what an audit of them could measure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from audit.architectures import Config
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.checkpoint.signature import Trust, signatures
from audit.commands.plan import plan_pair, possible
from audit.errors import AuditError
from audit.models.opening import OpenedModel, with_config
from audit.models.pair import ModelPair, open_pair
from audit.progress import SILENT, Progress
from audit.request import Request
from audit.result import Check, FileCheck, PathCheck

CHUNK: Final = 1 << 24
"""Number of bytes hashed between two progress steps."""
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
    """Check each path as an audit would before its slow work, and estimate that work.

    Reads headers, and whole files for their hashes. Tensor values are read in one case: a head stored next to its
    embedding is compared with it, up to the first difference, to decide whether the two are tied.

    Args:
        concepts: concepts whose questions are included in the estimate of time and memory.
        config, tokenizer: folders, if they are not next to the weights.
        trust: key or certificates that signatures are verified with.

    Raises:
        AuditError: a given config or concept cannot be used. Problems of a path are reported, not raised.
    """
    given_config = read_config(config) if config is not None else None
    rows: list[PathCheck] = []
    models: list[OpenedModel | None] = []
    for path in paths:
        base = models[0].checkpoint if models and models[0] else None
        row, model = _check_path(path, base, given_config, hashes, trust, progress)
        rows.append(row)
        models.append(model)
    pair: ModelPair | None = None
    for place in range(1, len(paths)):
        if models[0] is not None and models[place] is not None:
            rows[place], compared = _compare(rows[place], paths[0], paths[place], config, tokenizer)
            pair = pair or compared
    problem = next((row.problem for row in rows if row.problem is not None), None)
    if problem is not None:
        return Check(tuple(rows), (), None, problem)
    try:
        pair = pair or open_pair(paths[0], paths[0], None, config, tokenizer)
        metrics = possible(pair)
        plan = plan_pair(pair, request=Request(concepts))
    except AuditError as error:
        return Check(tuple(rows), (), None, str(error))
    return Check(tuple(rows), tuple(metrics), plan, None)


def hash_file(path: Path, progress: Progress = SILENT) -> str:
    """SHA-256 of a file, with a progress step every ``CHUNK`` bytes."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            progress.step(f"Hashing {path.name}", done, total)
            digest.update(block)
            done += len(block)
    return digest.hexdigest()


def _check_path(
    path: Path,
    base: Checkpoint | None,
    given_config: Config | None,
    hashes: bool,
    trust: Trust,
    progress: Progress,
) -> tuple[PathCheck, OpenedModel | None]:
    """The check of one path alone (an adapter: merged into ``base``); the model is ``None`` if the path is rejected."""
    try:
        checkpoint = open_checkpoint(path, base)
        model = with_config(checkpoint, given_config if given_config is not None else own_config(checkpoint))
        files = tuple(
            FileCheck(file.name, file.stat().st_size, hash_file(file, progress) if hashes else None)
            for file in checkpoint.files
        )
    except AuditError as error:
        return PathCheck(str(path), refused=str(error)), None
    progress.step("Looking for signatures")
    return replace(_describe(model, files), signatures=tuple(signatures(path, trust))), model


def _describe(model: OpenedModel, files: tuple[FileCheck, ...]) -> PathCheck:
    checkpoint, architecture = model.checkpoint, model.architecture
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
        unknown=model.missing.get("architecture"),
        config=model.config is not None,
        tokenizer=model.has_tokenizer,
        notes=notes,
    )


def _compare(
    row: PathCheck, base: Path, path: Path, config: Path | None, tokenizer: Path | None
) -> tuple[PathCheck, ModelPair | None]:
    """``row``, the check of ``path``, with the comparison with ``base`` added; and the pair, if comparable."""
    try:
        pair = open_pair(base, path, None, config, tokenizer)
    except AuditError as error:
        return replace(row, comparable=False, differences=str(error)), None
    notes = dict.fromkeys((*row.notes, *pair.notes))
    return replace(row, comparable=True, notes=tuple(notes)), pair
