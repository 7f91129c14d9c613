"""Rounding to the number formats of quantised weights."""

from __future__ import annotations

import pytest
import torch

from audit.models.loading import RunningModel
from audit.weights.grids import GROUP, INT8, LARGEST, NF4, UNIFORM, Grid, normal_levels

GRIDS = [*UNIFORM.values(), INT8, NF4]
PUBLISHED = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The numbers of NF4 in QLoRA's appendix E."""


def matrix(*shape: int) -> torch.Tensor:
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_levels_of_nf4_are_the_published_ones() -> None:
    assert normal_levels() == pytest.approx(PUBLISHED, abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_a_rounded_matrix_is_not_changed_by_rounding(grid: Grid) -> None:
    rounded = grid.rounded(matrix(16, 192))
    assert grid.rounded(rounded) == pytest.approx(rounded, abs=1e-7)


@pytest.mark.parametrize("bits", LARGEST)
def test_no_weight_moves_by_more_than_half_a_step(bits: int) -> None:
    weights = matrix(16, 192)
    parts = weights.reshape(-1, GROUP)
    steps = (parts.amax(dim=1) - parts.amin(dim=1)) / LARGEST[bits]
    moved = (UNIFORM[bits].rounded(weights) - weights).reshape(-1, GROUP).abs().amax(dim=1)
    assert (moved <= steps / 2 + 1e-8).all()
    assert (moved > steps / 4).all()


def test_a_group_has_as_many_numbers_as_its_bits_allow() -> None:
    weights = matrix(1, GROUP)
    rounded = UNIFORM[3].rounded(weights)
    assert 4 < len(rounded.unique()) <= 8
    assert float(rounded.min()) == pytest.approx(float(weights.min()))
    assert float(rounded.max()) == pytest.approx(float(weights.max()))


def test_groups_have_scales_of_their_own_and_a_short_last_group_too() -> None:
    weights = matrix(2, GROUP + 5)
    weights[:, :GROUP] *= 1000
    error = (UNIFORM[8].rounded(weights) - weights).abs()
    assert error[:, GROUP:].max() < 1e-3 * error[:, :GROUP].max()
    assert torch.equal(UNIFORM[8].rounded(weights[:, GROUP:]), UNIFORM[8].rounded(weights)[:, GROUP:])


def test_int8_has_one_scale_for_each_row() -> None:
    weights = matrix(2, 128)
    weights[0, 0] = 10.0
    rounded = INT8.rounded(weights)
    assert (rounded[0, 1:] == 0).float().mean() > 0.8
    assert (rounded[1] - weights[1]).abs().max() <= weights[1].abs().max() / 254 + 1e-8


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_zeros_and_number_formats_are_kept(grid: Grid) -> None:
    assert torch.equal(grid.rounded(torch.zeros(2, 64)), torch.zeros(2, 64))
    assert grid.rounded(matrix(2, 64).bfloat16()).dtype == torch.bfloat16


def test_the_experts_of_a_layer_are_rounded_as_its_rows() -> None:
    weights = matrix(3, 4, 64)
    assert torch.equal(UNIFORM[4].rounded(weights)[1], UNIFORM[4].rounded(weights[1]))


def test_weights_that_were_published_on_the_grid_of_4_bits_stay(running_smollm2: RunningModel) -> None:
    """SmolLM2 comes as Q4_1, whose blocks of 32 have a minimum and 16 numbers above it."""
    for layer in (0, 17):
        weights = running_smollm2.model.get_submodule(f"model.layers.{layer}.mlp.up_proj").weight
        spread = float(weights.std())
        assert float((UNIFORM[4].rounded(weights) - weights).abs().max()) < 0.01 * spread
        assert float((UNIFORM[3].rounded(weights) - weights).std()) > 0.1 * spread
