"""The weights metrics against plain computations and the closed forms of the specification."""

from __future__ import annotations

import math

import pytest
import torch

from audit.metrics.weights.code_flips import count_flips
from audit.metrics.weights.update_rank import Tally
from audit.weights.blocks import Block, SharedTensor
from audit.weights.grids import GROUP, LARGEST
from audit.weights.norms import cosine


@pytest.mark.parametrize("update", [1e-5, 1e-3])
def test_flipped_4bit_codes_follow_the_closed_form(update: float) -> None:
    """Weights of sd 0.02, and an update that is small against a step.

    A weight flips with probability E|d| / step, where d is its move on the grid: its own update minus that of the grid,
    which moves with both extremes. The extremes themselves keep their codes.
    """
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(2048, 1024, generator=generator)
    moved = base + update * torch.randn(base.shape, generator=generator)
    parts = base.reshape(-1, GROUP)
    low, high = parts.amin(dim=1, keepdim=True), parts.amax(dim=1, keepdim=True)
    place = (parts - low) / (high - low)
    moves = math.sqrt(2 / math.pi) * update * (1 + (1 - place) ** 2 + place**2).sqrt()
    flips = (moves / (high - low) * LARGEST[4]).where((place > 0) & (place < 1), 0.0)
    assert count_flips(base, moved)[4] / base.numel() == pytest.approx(float(flips.mean()), rel=0.05)


def test_no_update_flips_no_code() -> None:
    base = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    assert count_flips(base, base.clone()) == {3: 0, 4: 0, 8: 0}


def test_finer_codes_flip_more_often() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(64, 256, generator=generator)
    flips = count_flips(base, base + 1e-3 * torch.randn(base.shape, generator=generator))
    assert flips[8] > 5 * flips[4] > flips[3] > 0


def test_a_short_last_group_has_its_own_scale() -> None:
    base = torch.zeros(1, 35)
    base[0, :32] = 100.0
    base[0, 32:] = torch.tensor([0.0, 0.5, 1.0])
    moved = base.clone()
    moved[0, 33] = 0.9
    assert count_flips(base, moved)[4] == 1


def test_a_group_of_zeros_is_not_a_division_by_zero() -> None:
    assert count_flips(torch.zeros(1, 64), torch.zeros(1, 64)) == {3: 0, 4: 0, 8: 0}


def leading_singular_values(matrix: torch.Tensor, blocks: int = 1) -> list[float]:
    """What the metric computes if ``matrix`` is the update of a tensor, read in ``blocks`` parts."""
    tensor = SharedTensor("w", None, None, (), tuple(matrix.shape), torch.float32)
    tally = Tally(tensor)
    for rows in matrix.chunk(blocks):
        tally.add(Block(torch.zeros_like(rows), rows, changed=True))
    while tally.needs_another_pass():
        for rows in matrix.chunk(blocks):
            tally.add_delta(rows)
    result = tally.result()
    assert result is not None
    return result[1]


@pytest.mark.parametrize("shape", [(300, 80), (80, 300), (5, 3), (1, 40), (40, 1)])
def test_leading_singular_values_agree_with_the_exact_ones(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.linspace(1, 0.01, shape[1])
    values = leading_singular_values(matrix)
    exact = torch.linalg.svdvals(matrix)[: len(values)]
    assert values[0] == pytest.approx(float(exact[0]), rel=1e-3)
    assert values == sorted(values, reverse=True)


def test_white_noise_is_the_worst_case_and_stays_within_one_percent() -> None:
    matrix = torch.randn(1536, 576, generator=torch.Generator().manual_seed(4))
    exact = float(torch.linalg.svdvals(matrix)[0])
    assert exact * 0.99 <= leading_singular_values(matrix)[0] <= exact * 1.0001


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
def test_a_matrix_read_in_blocks_has_the_same_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.linspace(1, 0.01, shape[1])
    assert leading_singular_values(matrix, blocks=7) == pytest.approx(leading_singular_values(matrix), rel=1e-3)


def test_a_rank_one_update_has_one_singular_value() -> None:
    matrix = torch.outer(torch.arange(1.0, 30.0), torch.arange(1.0, 20.0))
    first, second, *_ = leading_singular_values(matrix)
    assert first == pytest.approx(float(matrix.norm()), rel=1e-5)
    assert second < 1e-3 * first


def test_a_cosine_keeps_its_digits_for_a_small_update() -> None:
    """A rotation by 1e-5: float32 dot products print 1, the norms do not."""
    before = torch.tensor([1.0, 0.0], dtype=torch.float64)
    after = torch.tensor([math.cos(1e-5), math.sin(1e-5)], dtype=torch.float64)
    squares = (float((x**2).sum()) for x in (before, after, after - before))
    assert 1 - (cosine(*squares) or 0) == pytest.approx(5e-11, rel=1e-3)


def test_a_cosine_with_a_zero_vector_is_undefined() -> None:
    assert cosine(0.0, 1.0, 1.0) is None
