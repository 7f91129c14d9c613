"""check(): are these checkpoints whole, safe and comparable, and what could an audit of them do? Headers and hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from audit.architectures import Architecture, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.checkpoint.pair import ModelPair, open_pair
from audit.checkpoint.signature import Signature, Trust, signatures
from audit.commands.plan import Plan, Planned, plan_pair, possible
from audit.errors import AuditError
from audit.evidence import has_tokenizer
from audit.progress import SILENT, Progress

WIDTH: Final = 100
CHUNK: Final = 1 << 24  # bytes between two signs of progress
SIZES: Final = ("n_layers", "d_model", "d_mlp", "d_vocab")


@dataclass(frozen=True)
class FileCheck:
    """One weight file; ``sha256`` is ``None`` where hashes were not asked for."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class PathCheck:
    """What one path holds, as its headers say.

    Attributes:
        family, sizes: of a known architecture; else ``unknown`` says why it is of none.
        largest: elements of the largest tensor.
        notes: what was ignored, normalised or is unusual.
        signatures: those beside the weights.
        refused: why no audit would read it.
        comparable: whether it is a version of the first path's model; ``None`` for the first path itself and where
            either was refused. ``differences`` says what is between them.
    """

    path: str
    format: str | None = None
    files: tuple[FileCheck, ...] = ()
    tensors: int = 0
    parameters: int = 0
    largest: int = 0
    dtypes: tuple[str, ...] = ()
    family: str | None = None
    sizes: dict[str, int] | None = None
    unknown: str | None = None
    config: bool = False
    tokenizer: bool = False
    notes: tuple[str, ...] = ()
    signatures: tuple[Signature, ...] = ()
    refused: str | None = None
    comparable: bool | None = None
    differences: str | None = None

    @property
    def sound(self) -> bool:
        return self.problem is None

    @property
    def problem(self) -> str | None:
        """Why an audit would stop at it, or should not be believed."""
        broken = next((str(signature) for signature in self.signatures if signature.state == "fails"), None)
        return self.refused or self.differences or broken

    def as_text(self) -> str:
        lines = [f"{self.path}: {self._summary()}"]
        if self.refused:
            return "\n".join([*lines, *_wrapped("Refused", self.refused)])
        family = f"{self.family} ({_sizes(self.sizes or {})})" if self.family else str(self.unknown)
        lines += _wrapped("Format", f"{self.format}, {', '.join(self.dtypes)}")
        lines += _wrapped("Tensors", f"{self.tensors:,} with {self.parameters:,} parameters")
        lines += _wrapped("Family", family)
        lines += _wrapped("Config", "found" if self.config else "not beside the weights")
        lines += _wrapped("Tokenizer", "found" if self.tokenizer else "not beside the weights")
        for file in self.files:
            lines += _wrapped("File", f"{file.name}, {file.bytes:,} bytes")
            lines += _wrapped("", f"sha256 {file.sha256}") if file.sha256 else []
        for signature in self.signatures:
            lines += _wrapped("Signature", f"{signature.file} {signature.state}: {signature.detail}")
        for note in self.notes:
            lines += _wrapped("Note", note)
        return "\n".join([*lines, *_wrapped("Differs", self.differences)] if self.differences else lines)

    def _summary(self) -> str:
        if self.refused:
            return "refused"
        if self.comparable is False:
            return "not comparable with the first"
        return "sound" if self.sound else "not as it was signed"


@dataclass(frozen=True)
class Check:
    """What was found of each path, and what an audit of the first two (or of one against its like) could do.

    ``metrics`` and ``plan`` are empty where ``stopped`` says what an audit would stop at.
    """

    paths: tuple[PathCheck, ...]
    metrics: tuple[Planned, ...]
    plan: Plan | None
    stopped: str | None

    @property
    def sound(self) -> bool:
        return self.stopped is None and all(path.sound for path in self.paths)

    def as_json(self) -> dict[str, Any]:
        return {"sound": self.sound, **asdict(self)}

    def as_text(self) -> str:
        blocks = [path.as_text() for path in self.paths]
        blocks.append("\n".join(self._audit()))
        return "\n\n".join(blocks)

    def _audit(self) -> list[str]:
        if self.plan is None:
            told = any(not path.sound for path in self.paths)
            return ["No audit of these could run." if told else f"An audit would stop: {self.stopped}"]
        plan, largest = self.plan, max(path.largest for path in self.paths)
        lines = ["An audit of these" if len(self.paths) > 1 else "An audit of this and a second version of it"]
        lines += _wrapped("Could measure", ", ".join(row.metric for row in self.metrics if row.missing is None))
        lacking = [row for row in self.metrics if row.missing is not None]
        for reason in dict.fromkeys(row.missing for row in lacking):
            lines += _wrapped("Could not", ", ".join(row.metric for row in lacking if row.missing == reason))
            lines += _wrapped("Because", str(reason))
        runs = plan.forward_tokens + plan.generated_tokens
        running = f"{runs:,} tokens run" if runs else "questions would add to it, see --concept"
        time = f"about {plan.seconds:.0f} s" if plan.seconds >= 1 else "under 1 s"
        return [
            *lines,
            *_wrapped("Time", f"{time}: {plan.bytes_to_read:,} bytes read; {running}"),
            *_wrapped(
                "Peak memory",
                f"about {plan.memory_bytes / 1e9:.1f} GB: {largest:,} of {plan.parameters:,} parameters in the "
                "largest tensor, beside the program itself",
            ),
        ]


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


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in sizes.items())


def _wrapped(label: str, text: str) -> list[str]:
    """``text`` beside its label; long words (paths, hashes) are never cut."""
    if not text:
        return []
    first, later = f"  {label:<13} ", " " * 16
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False)
