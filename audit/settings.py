"""The settings of a run, as the user gave them and as the result records them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How models are run and how chance is drawn.

    Attributes:
        seed: of every bootstrap, permutation and fold.
        device, dtype: where and in which number format models run; weights are compared as stored.
        batch_size: prompts in one forward pass.
        run_code: whether programs that a model writes are run, in a process of their own, to see if they are right.
        limit: at most this many questions of each kind; ``None`` for all.
        known_vectors: whether a concept's vectors are those that its file names, instead of those found in the base.
    """

    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 16
    limit: int | None = None
    run_code: bool = False
    known_vectors: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
