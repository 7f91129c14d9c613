"""The settings of a run, as the user gave them and as the result records them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How models are run and how random numbers are drawn.

    Attributes:
        seed: seed of every bootstrap, permutation and fold.
        device, dtype: where and in which number format models run; weights are compared as stored.
        batch_size: prompts in one forward pass.
        limit: maximum number of questions of each kind; ``None`` for all.
        run_code: whether programs that a model writes are executed, each in a process of its own, to check them.
        known_vectors: whether the concept vectors are those that the concept file names, and not those that a search in
            the base finds.
        attacks: ``none``, ``quick``, ``full``, or names of attacks separated by commas.
        lens: ``logit`` or ``tuned``: through what each layer is read.
        relearning_steps: numbers of steps, ascending, after which a relearned model is read; empty for those of the
            attack's level.
    """

    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 16
    limit: int | None = None
    run_code: bool = False
    known_vectors: bool = False
    attacks: str = "quick"
    relearning_steps: tuple[int, ...] = ()
    lens: str = "logit"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"relearning_steps": list(self.relearning_steps)}


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/unlearning-audit`` if that is set, else ``audit-report/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "unlearning-audit" if home else Path("audit-report/.cache")
