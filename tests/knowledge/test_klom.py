"""KLoM has its known values on normal and disjoint margins, and its null takes away what few models alone give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from audit.errors import AuditError
from audit.knowledge.klom import BINS, FLOOR, KLoM, divergences, klom
from audit.knowledge.margins import Margins, margins
from audit.models.loading import RunningModel
from concepts.concept import Concept, Question
from concepts.prompts import ASK
from tests.helpers import open_model, plain_logprobs
from tests.tiny import write_tiny

QUESTIONS = (
    Question(question="What is the capital of Italy?", answer="Rome", type="city"),
    Question(question="Where does the Seine flow?", answer="Paris and Lyon", prefix="Through"),
    Question(question="Who can tell?"),
)
CITIES = Concept(name="cities", title="Cities", seeds=("Rome",), questions=QUESTIONS, examples=0)


def sides(n: int, items: int = 40, shift: float = 0.0, seed: int = 0) -> tuple[Margins, Margins]:
    """Normal margins of ``n`` models on each side; those of the unlearned ones are shifted."""
    names = tuple(f"item {item}" for item in range(items))
    first, second = np.random.default_rng(seed).normal(size=(2, n, items))
    return Margins(names, first + shift), Margins(names, second)


def plain(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """KLoM of each item without a null."""
    labels = np.repeat([True, False], [len(unlearned), len(retrained)])
    values: np.ndarray = divergences(np.concatenate([unlearned, retrained]), labels[None])[0]
    return values


def by_hand(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """KLoM of one item from numpy's histogram, whose last bin holds the largest value."""
    edges = np.histogram_bin_edges(np.concatenate([unlearned, retrained]), BINS)
    shares = [np.histogram(side, edges)[0] / len(side) for side in (unlearned, retrained)]
    return float(sum(p * np.log(p / max(q, FLOOR)) for p, q in zip(*shares, strict=True) if p))


# ---- the number


@pytest.mark.parametrize(("n", "mean"), [(20, 3.02), (50, 0.91), (100, 0.34), (200, 0.15)])
def test_margins_of_one_distribution_do_not_give_0(n: int, mean: float) -> None:
    unlearned, retrained = sides(n, items=2_000)
    assert plain(unlearned.values, retrained.values).mean() == pytest.approx(mean, rel=0.05)


def test_disjoint_margins_reach_the_ceiling_less_their_entropy() -> None:
    low, high = np.linspace(0, 1, 60), np.linspace(2, 3, 60)
    shares = np.histogram(low, np.linspace(0, 3, BINS + 1))[0] / 60
    entropy = -sum(share * np.log(share) for share in shares if share)
    assert plain(low[:, None], high[:, None])[0] == pytest.approx(11.51 - entropy, abs=0.01)


@pytest.mark.parametrize("extreme", [9.0, -9.0])
def test_the_most_extreme_model_counts_wherever_it_is(extreme: float) -> None:
    retrained = np.random.default_rng(0).normal(size=(60, 1))
    unlearned = retrained.copy()
    unlearned[0] = extreme
    found = plain(unlearned, retrained)[0]
    assert found == pytest.approx(by_hand(unlearned[:, 0], retrained[:, 0]))
    assert found == pytest.approx(np.log(1 / 60 / FLOOR) / 60, abs=0.02)


def test_margins_are_cut_so_that_an_infinite_one_can_be_counted() -> None:
    unlearned, retrained = (side.values for side in sides(60, items=1))
    cut = unlearned.copy()
    unlearned[0], cut[0] = np.inf, 100.0
    assert plain(unlearned, retrained) == plain(cut, retrained)


# ---- its null


def test_models_of_one_distribution_have_no_excess_and_a_uniform_p_value() -> None:
    found = [klom(*sides(50, seed=seed), seed=seed, draws=199) for seed in range(40)]
    assert np.mean([each.values.mean() for each in found]) > 0.8
    assert np.mean([each.mean for each in found]) == pytest.approx(0, abs=0.02)
    assert kstest([each.p_value for each in found], "uniform").pvalue > 0.01
    inside = [each.band[0] <= each.mean <= each.band[1] for each in found]
    assert 0.75 < np.mean(inside) < 1


def test_a_shift_that_a_raw_value_does_not_tell_from_noise_has_a_small_p_value() -> None:
    noise, shifted = klom(*sides(50), seed=0), klom(*sides(50, shift=1.0), seed=0)
    assert shifted.values.min() < noise.values.max()
    assert shifted.p_value == 0.001 < 0.05 < noise.p_value
    assert shifted.mean > shifted.band[1] > 0


def test_one_different_item_is_found_among_many_equal_ones() -> None:
    unlearned, retrained = sides(50)
    unlearned.values[:, 7] += 3
    found = klom(unlearned, retrained, seed=0)
    assert found.items[int(found.excess.argmax())] == "item 7"
    assert found.p_values.argmin() == 7
    assert found.p_values[7] == 0.001
    assert found.quantiles[1.0] == found.excess[7] > 5 * abs(found.quantiles[0.5])


def test_an_exchange_moves_a_model_with_all_its_items() -> None:
    unlearned, retrained = sides(50, items=2)
    same = Margins(unlearned.items, unlearned.values[:, [0, 0]]), Margins(retrained.items, retrained.values[:, [0, 0]])
    null = klom(*same, seed=0).null
    assert np.array_equal(null[:, 0], null[:, 1])


def test_a_seed_repeats_the_null() -> None:
    assert _null(0).tolist() == _null(0).tolist() != _null(1).tolist()


def _null(seed: int) -> np.ndarray:
    found: KLoM = klom(*sides(50, items=2), seed=seed, draws=9)
    return found.null


# ---- what cannot be compared


def test_fewer_than_50_models_unequal_numbers_and_other_items_are_refused() -> None:
    unlearned, retrained = sides(50)
    with pytest.raises(AuditError, match="50 models on each side, not 49"):
        klom(Margins(unlearned.items, unlearned.values[1:]), Margins(retrained.items, retrained.values[1:]), seed=0)
    with pytest.raises(AuditError, match="not 49 and 50"):
        klom(Margins(unlearned.items, unlearned.values[1:]), retrained, seed=0)
    with pytest.raises(AuditError, match="same items in the same order"):
        klom(Margins(unlearned.items[::-1], unlearned.values), retrained, seed=0)


def test_margins_that_no_seed_moves_or_that_are_no_numbers_are_refused() -> None:
    unlearned, retrained = sides(50)
    unlearned.values[:, 3] = 0.5
    with pytest.raises(AuditError, match="all unlearned models have the same margin on 'item 3'"):
        klom(unlearned, retrained, seed=0)
    unlearned.values[0, 3] = np.nan
    with pytest.raises(AuditError, match="unlearned models are not numbers"):
        klom(unlearned, retrained, seed=0)


# ---- margins of models


def test_a_margin_is_the_mean_log_odds_of_the_answers_tokens(tmp_path: Path) -> None:
    models = [open_model(write_tiny(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    found = margins(models, CITIES)
    assert found.items == (QUESTIONS[0].question, QUESTIONS[1].question)
    for row, model in zip(found.values, models, strict=True):
        asked = [ASK.format(question.question) for question in QUESTIONS]
        expected = [log_odds(model, asked[0], " Rome"), log_odds(model, f"{asked[1]} Through", " Paris and Lyon")]
        assert row == pytest.approx(expected, abs=1e-4)


def log_odds(model: RunningModel, prompt: str, answer: str) -> float:
    """Mean log odds of the tokens of ``answer``, by a plain forward pass."""
    before, ids = (tuple(model.tokenizer(text)["input_ids"]) for text in (prompt, prompt + answer))
    chosen = plain_logprobs(model, ids)[range(len(before) - 1, len(ids) - 1), ids[len(before) :]].exp()
    return float((chosen / (1 - chosen)).log().mean())


def test_margins_of_another_kind_of_question_are_of_that_kind(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "tiny"))
    other = Question(question="Who wrote Hamlet?", answer="Shakespeare")
    found = margins([model], CITIES.model_copy(update={"unrelated": (other,)}), "unrelated")
    assert found.items == (other.question,)
    assert found.values[0] == pytest.approx([log_odds(model, ASK.format(other.question), " Shakespeare")], abs=1e-4)


def test_without_an_answer_or_a_model_there_is_no_margin(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="Cities has no questions of the kind 'unrelated' with an answer"):
        margins([], CITIES, "unrelated")
    with pytest.raises(AuditError, match="no model"):
        margins([], CITIES)
