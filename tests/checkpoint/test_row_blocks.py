"""Blocks of rows cover a tensor once, in order, and stay within their size."""

from __future__ import annotations

import math

import pytest

from audit.checkpoint.row_blocks import row_blocks


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 2), (1, 100), (5,), (10, 10)])
@pytest.mark.parametrize("most", [1, 6, 7, 20, 1000])
def test_blocks_cover_every_row_once_and_have_no_more_elements_than_allowed(shape: tuple[int, ...], most: int) -> None:
    blocks = list(row_blocks(shape, most))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(shape[0]))
    width = math.prod(shape[1:])
    assert all((block.stop - block.start) * width <= most or block.stop - block.start == 1 for block in blocks)


def test_a_tensor_that_fits_is_one_block() -> None:
    assert list(row_blocks((4, 5), 20)) == [slice(0, 4)]


def test_a_scalar_is_one_block_and_so_is_an_empty_tensor() -> None:
    assert list(row_blocks((), 10)) == [slice(None)]
    assert list(row_blocks((0, 5), 10)) == [slice(0, 0)]
