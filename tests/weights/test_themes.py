"""The theme of changed neurons: random updates of any rank have none, whatever words they happen to write."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from audit.weights.themes import DRAWS, ContentWords, Update, find_theme, rotated_excess
from concepts.discovery import HeadStatistics

D_MODEL, N_WORDS, N_CHANGED = 48, 400, 100
SEEDS = 40
RANKS = [1, 2, 4, 8, 16]


def words() -> ContentWords:
    """A head whose rows vary twice as much along some directions of the residual stream as along others."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(1_000, D_MODEL, generator=generator) * torch.linspace(1, 2, D_MODEL)
    return ContentWords(tuple(f"word{at}" for at in range(N_WORDS)), head[:N_WORDS], HeadStatistics.from_head(head))


WORDS = words()


def vectors(n: int, seed: int) -> Tensor:
    return torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed))


TYPICAL = vectors(300, 7)


def update(rank: int, seed: int) -> Tensor:
    """A random update: what adapters of low rank add to value vectors before they learn anything."""
    return vectors(N_CHANGED, 1_000 + seed)[:, :rank] @ vectors(rank, 2_000 + seed)


@pytest.mark.parametrize("rank", RANKS)
def test_random_updates_of_low_rank_have_uniform_p_values(rank: int) -> None:
    """Compared with as many value vectors as there are changes, nearly every one of them had a theme."""
    p_values = [rotated_excess(Update.of(WORDS, update(rank, seed)), seed).p_value for seed in range(SEEDS)]
    assert kstest(p_values, "uniform").pvalue > 0.01, sorted(p_values)


@pytest.mark.parametrize("rank", [*RANKS, D_MODEL])
def test_random_updates_of_any_rank_hardly_ever_have_a_theme(rank: int) -> None:
    found = [find_theme(WORDS, update(rank, seed), TYPICAL, seed) for seed in range(SEEDS)]
    assert sum(measured.p_value <= 0.05 for _, measured in found) <= 5
    assert all(measured.p_value < 0.05 for theme, measured in found if theme)


@pytest.mark.parametrize("rank", RANKS)
def test_words_that_are_planted_in_an_update_of_low_rank_are_its_theme(rank: int) -> None:
    """One direction of the update writes two words."""
    rows = WORDS.rows[[3, 50]] - WORDS.head.mean
    direction = torch.linalg.solve(WORDS.head.covariance, rows.sum(dim=0))
    noise = update(rank, 0)
    planted = noise + 3 * vectors(N_CHANGED, 9)[:, :1] * direction * noise.norm() / (N_CHANGED**0.5 * direction.norm())
    theme, measured = find_theme(WORDS, planted, TYPICAL)
    assert set(theme) >= {"word3", "word50"}
    assert measured.p_value == 1 / (1 + DRAWS)


@pytest.mark.parametrize("n", [2, 20, 100])
def test_words_that_single_value_vectors_write_are_no_theme(n: int) -> None:
    """Each usual vector writes one random word, and so does each change."""
    rows = WORDS.rows[torch.randint(N_WORDS, (2_000,), generator=torch.Generator().manual_seed(4))]
    usual = 0.5 * vectors(2_000, 3) + rows
    themes = [find_theme(WORDS, changes, usual[1_000:])[0] for changes in usual[:1_000].split(n)[:10]]
    assert sum(map(bool, themes)) <= 2


def test_a_head_with_fewer_rows_than_columns_is_no_obstacle() -> None:
    head = vectors(20, 5)
    few = ContentWords(tuple("abcdefghij"), head[:10], HeadStatistics.from_head(head))
    _, measured = find_theme(few, update(2, 1), TYPICAL)
    assert measured.value is not None


def test_a_change_that_is_0_is_not_measured() -> None:
    assert find_theme(WORDS, torch.zeros(3, D_MODEL), TYPICAL)[1].not_measured is not None
