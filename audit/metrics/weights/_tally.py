"""What the weights metrics have in common: they see a tensor in blocks of whole rows, one at a time.

A metric keeps its running sums between blocks, and may ask for further passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from audit.weights.scan import Block, SharedTensor


class Tally:
    """What one metric adds up over one tensor, on any thread."""

    def __init__(self, tensor: SharedTensor) -> None:
        self.tensor = tensor

    def add(self, block: Block) -> None:
        """Take the next rows, from the first to the last."""
        raise NotImplementedError

    def more(self) -> bool:
        """Called at the end of a pass: whether another one, over the differences alone, is needed."""
        return False

    def again(self, delta: Tensor) -> None:
        """Take the next rows that changed, in a further pass: ``unlearned - base``, float32."""
        raise NotImplementedError

    def found(self) -> Any:
        """What the metric's observer is given, ``None`` where the tensor is not for it."""
        raise NotImplementedError
