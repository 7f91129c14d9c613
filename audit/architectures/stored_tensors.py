"""What the identification of a model reads from a checkpoint.

``audit.checkpoint`` imports this package for the families' tensor names, so this package does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class TensorLayout(Protocol):
    """Shape and number format of one tensor, as the file's header states them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...


@runtime_checkable
class StoredTensors(Protocol):
    """Tensors by canonical name, read from disk on demand; ``audit.checkpoint.Checkpoint`` implements it."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorLayout]: ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (exclusive) of a tensor's first axis."""
