"""Pruning and l1-sparse training: what is zero stays zero, the smallest go first, the penalty's solution is exact."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import answer_loss, pack, tokenize
from audit.unlearning.methods import l1_sparse, prune, prune_first
from audit.unlearning.parameters import block_matrices
from audit.unlearning.sparsity import set_to_zero, smallest, zero_shares
from audit.unlearning.training import shuffled
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> RunningModel:
    return open_model(write_tiny(tmp_path / "model"))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 100))
def test_the_smallest_entries_of_all_matrices_together_are_chosen(sizes: list[int], share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        str(number): torch.nn.Parameter(torch.randn(size, 2, generator=generator)) for number, size in enumerate(sizes)
    }
    masks = smallest(parameters, share)
    chosen = torch.cat([parameters[name].detach()[mask] for name, mask in masks.items()]).abs()
    left = torch.cat([parameters[name].detach()[~mask] for name, mask in masks.items()]).abs()
    assert len(chosen) == round(share * 2 * sum(sizes))
    if len(chosen) and len(left):
        assert chosen.max() <= left.min()
    set_to_zero(parameters, masks)
    assert all((parameters[name][mask] == 0).all() for name, mask in masks.items())


def test_pruning_zeroes_the_share_asked_for_in_the_blocks_alone(tiny: RunningModel) -> None:
    before = {name: value.detach().clone() for name, value in tiny.model.named_parameters()}
    record = prune.unlearn(tiny, FORGET, RETAIN, prune.PruneSettings(sparsity=0.4))
    matrices = block_matrices(tiny)
    zeros = sum(int((matrix == 0).sum()) for matrix in matrices.values())
    assert zeros == round(0.4 * sum(matrix.numel() for matrix in matrices.values()))
    assert record.changed["share_of_zeros"] == zero_shares(matrices)
    others = {name: value for name, value in tiny.model.named_parameters() if name not in matrices}
    assert others
    assert all(torch.equal(value, before[name]) for name, value in others.items())


def test_what_was_pruned_stays_zero_through_momentum(tiny: RunningModel) -> None:
    masks = smallest(block_matrices(tiny), 0.3)
    settings = prune_first.PruneFirstSettings(steps=8, learning_rate=6e-3)
    record = prune_first.unlearn(tiny, FORGET, RETAIN, settings)
    matrices = block_matrices(tiny)
    assert all((matrices[name][mask] == 0).all() for name, mask in masks.items())
    assert record.trajectory[0]["W"] == pytest.approx(1.0, abs=1e-5), "its reference is the pruned model"
    assert len(record.trajectory) == 8


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1])
@pytest.mark.parametrize("settings", [prune.PruneSettings, prune_first.PruneFirstSettings])
def test_a_sparsity_out_of_range_is_an_error(
    settings: type[prune.PruneSettings | prune_first.PruneFirstSettings], sparsity: float
) -> None:
    with pytest.raises(AuditError, match="sparsity"):
        settings(sparsity=sparsity)


def test_a_larger_penalty_leaves_more_zeros(tmp_path: Path) -> None:
    shares = []
    for number, gamma in enumerate((1e-12, 0.3, 3.0)):
        model = open_model(write_tiny(tmp_path / str(number)))
        settings = l1_sparse.L1SparseSettings(steps=20, learning_rate=3e-3, gamma=gamma)
        record = l1_sparse.unlearn(model, FORGET, RETAIN, settings)
        assert record.examples == {"forget": 0, "retain": 3}
        assert record.trajectory[-1]["loss"] < record.trajectory[0]["loss"]
        matrices = block_matrices(model)
        shares.append(sum(zero_shares(matrices).values()) / len(matrices))
    assert shares[0] == 0.0
    assert 0.0 < shares[1] < shares[2]


def trained_plainly(model: RunningModel, settings: l1_sparse.L1SparseSettings, penalty: float) -> None:
    """AdamW on ``RETAIN``, each update followed by soft-thresholding with a penalty that falls linearly to 0."""
    tokens = tokenize(model.tokenizer, RETAIN)
    batches = shuffled(len(tokens), settings.retain_batch, torch.Generator().manual_seed(settings.seed))
    optimizer = torch.optim.AdamW(model.model.requires_grad_(True).parameters(), weight_decay=0.0, fused=True)
    for done, batch in enumerate(islice(batches, settings.steps)):
        rate = optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1, (done + 1) / settings.warmup)
        torch.autograd.backward(answer_loss(model, pack([(index, tokens[index]) for index in batch])))
        optimizer.step()
        optimizer.zero_grad()
        threshold = rate * penalty * (settings.steps - done) / settings.steps
        with torch.no_grad():
            for value in block_matrices(model).values():
                if penalty:
                    value.copy_(value.sign() * (value.abs() - threshold).clamp(min=0))


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_the_penalty_falls_to_zero_and_without_it_training_is_plain(penalty: float, tmp_path: Path) -> None:
    settings = l1_sparse.L1SparseSettings(steps=6, warmup=2, learning_rate=3e-2, gamma=penalty or 1e-20)
    sparse, plain = (open_model(write_tiny(tmp_path / "model")) for _ in range(2))
    l1_sparse.unlearn(sparse, FORGET, RETAIN, settings)
    trained_plainly(plain, settings, penalty)
    for one, other in zip(sparse.model.parameters(), plain.model.parameters(), strict=True):
        if penalty:
            torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(one, other)


def test_an_update_ends_in_the_exact_solution_of_the_penalty(tmp_path: Path) -> None:
    """What AdamW leaves is soft-thresholded by the update's learning rate times gamma."""
    gamma, rate = 0.5, 0.1
    after = []
    for number, chosen in enumerate((1e-12, gamma)):
        model = open_model(write_tiny(tmp_path / str(number)))
        settings = l1_sparse.L1SparseSettings(steps=1, warmup=1, learning_rate=rate, gamma=chosen)
        l1_sparse.unlearn(model, FORGET, RETAIN, settings)
        after.append({name: value.detach().clone() for name, value in block_matrices(model).items()})
    plain, shrunk = after
    for name, value in plain.items():
        expected = value.sign() * (value.abs() - rate * gamma).clamp(min=0)
        torch.testing.assert_close(shrunk[name], expected, rtol=1e-5, atol=1e-6)
    assert any(((shrunk[name] == 0) & (value != 0)).any() for name, value in plain.items())
