from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from concepts.concept import from_word
from concepts.discovery import (
    STRONGEST,
    HeadStatistics,
    contrast,
    discover,
    enrichment,
    exhaustive_top,
    matched_p_values,
    screen,
    shortlist,
)
from concepts.neuron import Neuron
from concepts.tokens import ConceptTokens, Lexicon, concept_tokens
from tests.concepts.test_tokens import Words

D_MODEL, D_MLP, N_LAYERS, N_WORDS = 24, 60, 3, 900


def name(index: int) -> str:
    """A word of letters that no background lists: all words then have one corpus frequency."""
    return "zq" + "".join("abcdefghij"[int(digit)] for digit in f"{index:03d}")


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(Words(tuple(f" {name(index)}" for index in range(N_WORDS))))


@pytest.fixture(scope="module", name="W_U")
def head_rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(N_WORDS, D_MODEL, generator=generator)
    rows[:12] += 2.0 * torch.randn(D_MODEL, generator=generator)  # the concept's words point one way
    return rows + 3.0  # a mean that every logit shares


@pytest.fixture(scope="module")
def tokens() -> ConceptTokens:
    return ConceptTokens(np.arange(12), tuple(name(i) for i in range(12)), np.ones(12, dtype=np.float32), "text")


def layers(plant: dict[tuple[int, int], torch.Tensor], seed: int = 1) -> list[tuple[int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(D_MLP, D_MODEL, generator=generator) for _ in range(N_LAYERS)]
    for (layer, neuron), row in plant.items():
        matrices[layer][neuron] = row
    return list(enumerate(matrices))


def direction(W_U: torch.Tensor) -> torch.Tensor:
    return W_U[:12].mean(dim=0) - W_U.mean(dim=0)


def test_the_screen_is_the_exact_z_score_of_a_logit_among_the_vocabularys(W_U: torch.Tensor) -> None:
    vectors = torch.randn(7, D_MODEL, generator=torch.Generator().manual_seed(3))
    logits = vectors @ W_U.T
    expected = (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, keepdim=True, correction=0)
    z = screen(vectors, HeadStatistics.from_head(W_U), W_U[:50])
    torch.testing.assert_close(z, expected[:, :50], rtol=1e-3, atol=1e-3)


def forms(rows: torch.Tensor) -> torch.Tensor:
    """The same rows as both forms of every word."""
    return torch.stack([rows, rows])


def test_contrast_takes_the_same_statistic_of_matched_sets_away_on_both_sides(W_U: torch.Tensor) -> None:
    vectors = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(4))
    head = HeadStatistics.from_head(W_U)
    both = contrast(vectors, head, forms(W_U[:12]), forms(W_U[100:124].reshape(2, 12, D_MODEL)))
    z = screen(vectors, head, W_U)
    for vector, (side, sign) in product(range(5), enumerate((1, -1))):
        strongest = [
            (sign * z[vector, part]).sort(descending=True).values[: round(12 * STRONGEST)].mean()
            for part in (slice(12), slice(100, 112), slice(112, 124))
        ]
        assert both[side, vector] == pytest.approx(float(strongest[0] - (strongest[1] + strongest[2]) / 2), abs=1e-4)


def test_a_word_counts_by_its_stronger_form(W_U: torch.Tensor) -> None:
    vectors = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(6))
    head, none = HeadStatistics.from_head(W_U), W_U.mean(dim=0).expand(2, 1, 1, -1)  # a control whose z is 0
    one, other = W_U[40:41], W_U[50:51]
    together = contrast(vectors, head, torch.stack([one, other]), none)
    alone = [contrast(vectors, head, forms(row), none) for row in (one, other)]
    torch.testing.assert_close(together, torch.maximum(*alone))


def test_a_vector_that_writes_everything_of_that_frequency_has_no_contrast(W_U: torch.Tensor) -> None:
    same = forms(W_U[:12])
    vectors = direction(W_U)[None]
    assert contrast(vectors, HeadStatistics.from_head(W_U), same, same[:, None])[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_vector_of_either_sign_comes_first_and_is_significant(
    sign: int, W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens
) -> None:
    best = discover(layers({(1, 17): sign * direction(W_U)}), W_U, lexicon, tokens)[0]
    assert (best.place, best.place.sign) == (Neuron(1, 17), sign)
    assert best.hits == 12
    assert best.q_value < 1e-3
    assert set(best.tokens) <= {lexicon.texts[token] for token in range(12)}


def test_without_a_planted_vector_nothing_is_significant(
    W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens
) -> None:
    scattered = ConceptTokens(np.arange(200, 260, 5), tuple(name(i) for i in range(200, 260, 5)), tokens.z, "text")
    for seed in range(8):
        vectors = discover(layers({}, seed), W_U, lexicon, scattered, seed=seed)
        assert min(vector.q_value for vector in vectors) > 0.05


def test_significant_vectors_come_first_and_then_the_score_decides(
    W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens
) -> None:
    vectors = discover(layers({(0, 3): direction(W_U), (2, 5): -direction(W_U)}), W_U, lexicon, tokens, keep=50)
    assert len(vectors) == 50
    assert {vector.place: vector.place.sign for vector in vectors[:2]} == {Neuron(0, 3): 1, Neuron(2, 5): -1}
    keys = [(vector.q_value >= 0.05, -vector.score) for vector in vectors]
    assert keys == sorted(keys)


def test_the_size_of_a_vector_does_not_matter(W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens) -> None:
    small = discover(layers({(1, 17): 1e-4 * direction(W_U)}), W_U, lexicon, tokens)[0]
    large = discover(layers({(1, 17): 1e4 * direction(W_U)}), W_U, lexicon, tokens)[0]
    assert small.score == pytest.approx(large.score, rel=1e-3)
    assert (small.hits, small.p_value) == (large.hits, large.p_value)


def test_zero_vectors_score_nothing_and_broken_ones_are_never_listed(
    W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens
) -> None:
    plant = {(0, 0): torch.zeros(D_MODEL), (0, 1): torch.full((D_MODEL,), torch.nan), (0, 2): direction(W_U)}
    vectors = discover(layers({**plant, (0, 4): torch.full((D_MODEL,), torch.inf)}), W_U, lexicon, tokens, keep=1000)
    places = {vector.place for vector in vectors}
    assert not {Neuron(0, 1), Neuron(0, 4)} & places
    assert vectors[0].place == Neuron(0, 2)
    assert all(
        np.isfinite([vector.score, vector.p_value, vector.q_value, vector.enrichment]).all() for vector in vectors
    )


def test_a_model_of_nothing_but_nan_has_no_concept_vectors(
    W_U: torch.Tensor, lexicon: Lexicon, tokens: ConceptTokens
) -> None:
    broken = [(0, torch.full((D_MLP, D_MODEL), torch.nan))]
    assert discover(broken, W_U, lexicon, tokens) == []


def test_the_shortlist_over_layers_is_the_one_over_all_vectors_at_once(W_U: torch.Tensor) -> None:
    head, words, controls = HeadStatistics.from_head(W_U), forms(W_U[:12]), forms(W_U[100:112][None])
    parts = layers({})
    streamed = shortlist(parts, head, words, controls, keep=20)
    whole = contrast(torch.cat([matrix for _, matrix in parts]), head, words, controls)
    torch.testing.assert_close(torch.from_numpy(streamed.scores), whole.flatten().topk(20).values)
    assert streamed.screened == N_LAYERS * D_MLP
    for layer, neuron, row in zip(streamed.layers, streamed.neurons, streamed.rows, strict=True):
        assert torch.equal(row, parts[layer][1][neuron])


def test_the_exhaustive_top_is_a_full_sort(W_U: torch.Tensor) -> None:
    vectors = torch.randn(33, D_MODEL, generator=torch.Generator().manual_seed(5))
    expected = (vectors @ W_U.T).argsort(dim=1, descending=True)[:, :20]
    assert torch.equal(exhaustive_top(vectors, W_U, k=20, batch=8), expected)


def test_enrichment_is_the_hypergeometric_tail() -> None:
    tail = sum(hypergeom.pmf(k, 1000, 12, 200) for k in range(5, 13))
    assert enrichment(np.array([5]), np.array([200]), 12, 1000)[0] == pytest.approx(-np.log10(tail))
    assert enrichment(np.array([0]), np.array([200]), 12, 1000)[0] == pytest.approx(0)


def test_the_matched_p_value_counts_all_ways_to_reach_the_hits() -> None:
    chances = np.array([0.1, 0.5, 0.9, 0.25])
    expected = sum(
        float(np.prod([chance if hit else 1 - chance for chance, hit in zip(chances, ways, strict=True)]))
        for ways in product((0, 1), repeat=4)
        if sum(ways) >= 2
    )
    two, none, all_four = matched_p_values(np.array([2, 0, 4]), np.tile(chances, (3, 1)))
    assert two == pytest.approx(expected)
    assert none == 1
    assert all_four == pytest.approx(float(chances.prod()))


def test_a_matched_p_value_far_below_rounding_is_exact() -> None:
    assert matched_p_values(np.array([40]), np.full((1, 40), 0.005)) == pytest.approx([0.005**40], rel=1e-12)


def test_the_matched_p_value_is_what_many_matched_sets_would_give() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0, 0.2, size=30)
    draws = (rng.random((100_000, 30)) < chances).sum(axis=1)
    assert matched_p_values(np.array([6]), chances[None])[0] == pytest.approx((draws >= 6).mean(), abs=0.005)


def test_discovery_works_from_a_name_alone(W_U: torch.Tensor, lexicon: Lexicon) -> None:
    tokens = concept_tokens(lexicon, from_word(name(3)), W_U.numpy())
    assert tokens.words == (name(3),)  # words that the background does not list are not neighbours
    (best, *_) = discover(layers({(2, 8): W_U[3] - W_U.mean(dim=0)}), W_U, lexicon, tokens)
    assert (best.place, best.place.sign) == (Neuron(2, 8), 1)
