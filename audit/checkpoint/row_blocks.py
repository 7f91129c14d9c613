"""Blocks of a tensor's rows, so that memory does not grow with the tensor."""

from __future__ import annotations

from collections.abc import Iterator

from audit.checkpoint.weight_file import numel


def row_blocks(shape: tuple[int, ...], max_elements: int) -> Iterator[slice]:
    """Slices of the first axis, in order, that together cover a tensor of this shape.

    Args:
        max_elements: most elements of a block, which has at least one row, even if the row has more elements.

    Yields:
        ``slice(start, stop)``; for a scalar, which has no rows, ``slice(None)`` once.
    """
    if not shape:
        yield slice(None)
    elif numel(shape) <= max_elements:
        yield slice(0, shape[0])
    else:
        rows = max(max_elements * shape[0] // numel(shape), 1)
        for start in range(0, shape[0], rows):
            yield slice(start, min(start + rows, shape[0]))
