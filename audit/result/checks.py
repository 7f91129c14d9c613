"""Records of ``audit check``, ``audit compare --plan`` and ``audit verify``, which write no ``result.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Planned:
    """One metric for one concept; ``missing`` is the reason why it cannot run, ``None`` if it can."""

    metric: str
    concept: str | None
    missing: str | None


@dataclass(frozen=True)
class PlannedAttack:
    """One attack on all models, with estimates of its time and peak memory."""

    name: str
    title: str
    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """The work of a comparison. Times and memory are estimates for this machine; no model was run."""

    architecture: str | None
    parameters: int
    notes: list[str]
    metrics: list[Planned]
    bytes_to_read: int
    forward_tokens: int
    generated_tokens: int
    trained_tokens: int
    seconds: float
    memory_bytes: int
    attacks: list[PlannedAttack]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Signature:
    """One signature file, and whether the folder's files match what was signed."""

    file: str
    state: Literal["holds", "fails", "not verified"]
    detail: str

    def __str__(self) -> str:
        return f"signature {self.file} {self.state}: {self.detail}"


@dataclass(frozen=True)
class FileCheck:
    """One weight file; ``sha256`` is ``None`` if hashing was switched off."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class PathCheck:
    """The contents of one path, according to its headers.

    Attributes:
        family, sizes: of a known architecture; otherwise ``unknown`` gives the reason why none matches.
        largest: number of elements of the largest tensor.
        notes: what was ignored or normalised, and what is unusual.
        signatures: the signature files next to the weights.
        refused: the reason why an audit would not read the path.
        comparable: whether it is a version of the first path's model; ``None`` for the first path itself, and if either
            path was rejected. ``differences`` lists what differs.
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
        """The reason why an audit would stop at this path, or why its files should not be trusted."""
        broken = next((str(signature) for signature in self.signatures if signature.state == "fails"), None)
        return self.refused or self.differences or broken


@dataclass(frozen=True)
class Check:
    """The checks of all paths, and the plan of an audit of the first two (of a single path against itself).

    ``stopped`` is the reason why an audit would stop; then ``metrics`` is empty and ``plan`` is ``None``.
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


@dataclass(frozen=True)
class Difference:
    """A field of a result whose recorded value differs from the actual one, ``found``; both may be any JSON value."""

    field: str
    recorded: Any
    found: Any


@dataclass(frozen=True)
class Verification:
    """The steps that were verified, in order; steps after the first ``difference`` did not run."""

    result: str
    verified: tuple[str, ...]
    difference: Difference | None
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.difference is None

    def as_json(self) -> dict[str, Any]:
        return {"holds": self.holds, **asdict(self)}
