"""Parity with the published ConceptVectors script: its own functions' outputs on small inputs, recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from concepts.similarity import rouge_l
from tests.reference import LAST, bleu_scores, decoded, vector_scores

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "conceptvectors_reference.json").read_text())


@pytest.mark.parametrize("vector", RECORDED["vectors"])
def test_cosine_l2_and_jaccard_are_those_of_the_script(vector: dict[str, Any]) -> None:
    head = torch.tensor(RECORDED["head"])
    scores = vector_scores(torch.tensor(vector["before"]), torch.tensor(vector["after"]), head)
    assert scores.cosine == pytest.approx(vector["cosine"], abs=1e-6)
    assert scores.l2 == pytest.approx(vector["l2"], abs=1e-6)
    assert scores.jaccard == pytest.approx(vector["jaccard"], abs=1e-6)


def test_a_zeroed_vector_has_cosine_zero() -> None:
    assert vector_scores(torch.ones(6), torch.zeros(6), torch.tensor(RECORDED["head"])).cosine == 0


def test_the_unlearned_models_own_head_is_used_where_it_differs() -> None:
    head = torch.tensor(RECORDED["head"])
    vector = torch.tensor(RECORDED["vectors"][0]["before"])
    assert vector_scores(vector, vector, head).jaccard == 1
    assert vector_scores(vector, vector, head, -head).jaccard < 1


def test_bleu_is_that_of_the_script() -> None:
    texts = RECORDED["texts"]
    scores = bleu_scores([pair["base"] for pair in texts], [pair["unlearned"] for pair in texts])
    assert scores == pytest.approx([pair["bleu"] for pair in texts], abs=1e-6)


@pytest.mark.parametrize("pair", RECORDED["texts"], ids=lambda pair: pair["unlearned"] or "empty")
def test_rouge_differs_only_where_its_package_splits_text_differently(pair: dict[str, Any]) -> None:
    """The two packages differ only in sentences, repeated words and exceptions."""
    both = f"{pair['base']} {pair['unlearned']}"
    words = [text.split() for text in (pair["base"], pair["unlearned"])]
    plain = both.replace(" ", "").isalpha() and both.islower()
    without_repeats = all(len(set(text)) == len(text) for text in words)
    ours = rouge_l(pair["unlearned"], pair["base"])
    if not pair["unlearned"]:
        assert pair["rouge_l"] == 0.0  # the package raises, the script writes 0
        assert ours is None
    elif plain and without_repeats:
        assert ours == pytest.approx(pair["rouge_l"], abs=1e-6)
    else:
        assert ours is not None
        assert abs(ours - pair["rouge_l"]) <= 0.5


def test_the_prompts_end_is_decoded_where_the_model_stopped_early() -> None:
    assert decoded([1, 2, 3], [8, 9], pad=0) == [0] * (LAST - 5) + [1, 2, 3, 8, 9]
    assert decoded(range(200), [8, 9], pad=0)[-4:] == [198, 199, 8, 9]
    assert decoded([1, 2, 3], range(LAST), pad=0) == [*range(LAST)]
