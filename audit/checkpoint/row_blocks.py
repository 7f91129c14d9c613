"""The one way to go through a tensor block by block, so that memory does not grow with the tensor."""

from __future__ import annotations

from collections.abc import Iterator

from audit.checkpoint.source import numel


def row_blocks(shape: tuple[int, ...], most: int) -> Iterator[slice]:
    """Slices of the first axis, in order, that together cover a tensor of this shape.

    Args:
        most: elements of a block, unless one row has more: a block is never smaller than a row.

    Yields:
        ``slice(start, stop)``; for a single number, which has no rows, the one slice ``slice(None)``.
    """
    if not shape:
        yield slice(None)
    elif numel(shape) <= most:
        yield slice(0, shape[0])
    else:
        rows = max(most * shape[0] // numel(shape), 1)
        for start in range(0, shape[0], rows):
            yield slice(start, min(start + rows, shape[0]))
