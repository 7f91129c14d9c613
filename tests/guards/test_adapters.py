"""Adapters that stay apart: what orthogonal rows imply, and that training keeps them so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.errors import AuditError
from audit.guards.adapters import (
    AdapterSettings,
    Matrices,
    adapted,
    cosine,
    inner,
    orthogonal_rows,
    overlap,
    train_adapter,
)
from audit.models.loading import RunningModel
from audit.unlearning.methods.dpo import refusals
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


def rows(rank: int, earlier: torch.Tensor | None = None, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return orthogonal_rows(rank, torch.zeros(0, 12) if earlier is None else earlier, generator)


def test_a_new_adapters_rows_are_orthonormal_and_have_no_overlap_with_earlier_ones() -> None:
    trained = torch.randn(4, 12, generator=torch.Generator().manual_seed(3))  # not orthonormal any more
    new = rows(5, trained)
    assert torch.allclose(new @ new.T, torch.eye(5), atol=1e-5)
    matrices = {"layer": (new, torch.ones(7, 5))}
    assert overlap(matrices, [{"layer": (trained, torch.ones(7, 4))}]).item() == pytest.approx(0, abs=1e-10)
    assert overlap({"layer": (rows(5, seed=1), torch.ones(7, 5))}, [{"layer": (trained, torch.ones(7, 4))}]) > 1


def test_there_is_room_for_the_width_divided_by_the_rank() -> None:
    earlier = torch.zeros(0, 12)
    for _ in range(3):
        earlier = torch.cat([earlier, rows(4, earlier)])
    assert torch.allclose(earlier @ earlier.T, torch.eye(12), atol=1e-5)
    with pytest.raises(ValueError, match="12 rows leave no room for 4 more in 12 dimensions"):
        rows(4, earlier)


def test_without_overlap_two_changes_of_the_weights_are_orthogonal_whatever_they_write() -> None:
    generator = torch.Generator().manual_seed(0)
    first = rows(4)
    second = rows(3, first)
    for _ in range(5):
        B_first, B_second = torch.randn(7, 4, generator=generator), torch.randn(7, 3, generator=generator)
        one, other = {"layer": (first, B_first)}, {"layer": (second, B_second)}
        assert inner(one, other) == pytest.approx(0, abs=1e-4)
        assert cosine(one, other) == pytest.approx(0, abs=1e-5)
        assert cosine(one, one) == pytest.approx(1)


def test_the_inner_product_is_that_of_the_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (
        {
            name: (torch.randn(3, 6, generator=generator), torch.randn(5, 3, generator=generator))
            for name in ("first", "second")
        }
        for _ in range(2)
    )
    changes = [{name: B @ A for name, (A, B) in each.items()} for each in (one, other)]
    expected = sum((changes[0][name] * changes[1][name]).sum().item() for name in one)
    assert inner(one, other) == pytest.approx(expected, rel=1e-4)
    assert inner(one, {"first": other["first"]}) == pytest.approx(
        (changes[0]["first"] * changes[1]["first"]).sum().item(), rel=1e-4
    )


def test_what_is_added_is_the_change_of_the_weights_times_the_input() -> None:
    A, B, x = rows(2), torch.arange(6.0).reshape(3, 2), torch.randn(4, 5, 12)
    assert torch.allclose(adapted(x, (A, B), 0.5), 0.5 * x @ (B @ A).T, atol=1e-5)


# ---- training


def trained(model: RunningModel, earlier: list[Matrices], penalty: float, seed: int = 0) -> Matrices:
    settings = AdapterSettings(seed=seed, steps=12, learning_rate=2e-2, rank=4, penalty=penalty)
    return train_adapter(model, refusals(FORGET), earlier, settings)[0]


def test_training_lowers_the_loss_and_leaves_the_model_as_it_is(tiny: RunningModel) -> None:
    before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    settings = AdapterSettings(steps=12, learning_rate=2e-2, rank=4)
    matrices, trajectory = train_adapter(tiny, refusals([*FORGET, *RETAIN]), [], settings)
    assert trajectory[-1]["loss"] < 0.8 * trajectory[0]["loss"]
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert len(matrices) == 2 * 7
    assert all(B.any() and not A.requires_grad for A, B in matrices.values())


def test_the_penalty_keeps_a_second_adapter_apart_from_the_first(tiny: RunningModel) -> None:
    first = trained(tiny, [], penalty=0.1)
    free, held = (trained(tiny, [first], penalty, seed=1) for penalty in (0.0, 100.0))
    assert overlap(held, [first]).item() < 0.1 * overlap(free, [first]).item()
    assert abs(cosine(held, first)) < abs(cosine(free, first))


def test_a_model_without_room_for_another_adapter_is_refused(tiny: RunningModel) -> None:
    settings = AdapterSettings(steps=1, rank=8)
    first, _ = train_adapter(tiny, refusals(FORGET), [], settings)
    second, _ = train_adapter(tiny, refusals(FORGET), [first], settings)
    with pytest.raises(AuditError, match="no room for another adapter: 16 rows leave no room for 8 more in 16 dim"):
        train_adapter(tiny, refusals(FORGET), [first, second], settings)
