"""Scores of packed answers are those of the answers one by one, whatever the row size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from audit.errors import AuditError
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, answer_logprobs, pack, tokenize
from audit.models.scoring import LONGEST, answer_margins, answer_means, fits, packed, score, score_rows
from tests.helpers import FORGET, RETAIN, answer_sum, open_model
from tests.tiny import write_tiny

EXAMPLES = [*FORGET, *RETAIN]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    return open_model(write_tiny(tmp_path_factory.mktemp("scoring") / "llama"))


@pytest.mark.parametrize("per_row", [1, 2, 5, 24])
def test_means_are_those_of_the_examples_one_by_one(model: RunningModel, per_row: int) -> None:
    alone = [float(answer_sum(model, tokens)) / len(tokens.answer) for tokens in tokenize(model.tokenizer, EXAMPLES)]
    np.testing.assert_allclose(score(model, EXAMPLES, per_row).means, alone, atol=1e-5)


def test_the_margin_of_a_nearly_certain_token_is_not_lost_to_rounding() -> None:
    row = pack([(0, Tokens((1,), (2, 3)))])
    logits = torch.zeros(2, 4)
    logits[0, 2], logits[1, 3] = 40.0, 30.0
    (margin,) = answer_margins(row, logits.log_softmax(dim=-1))
    assert margin.item() == pytest.approx(35 - np.log(3))


def test_an_answer_is_exact_where_greedy_decoding_begins_with_it(model: RunningModel) -> None:
    prompt = tuple(model.tokenizer("Question: What is the capital of Italy?\nAnswer:")["input_ids"])
    (own,) = greedy(model, [prompt], max_new_tokens=4, ended=lambda text: False)
    assert len(own) == 4
    other = (*own[:3], (own[3] + 1) % model.architecture.d_vocab)
    row = pack([*enumerate([Tokens(prompt, own), Tokens(prompt, own[:2]), Tokens(prompt, other)])])
    assert score_rows(model, [row]).exact.tolist() == [True, True, False]


def test_gradients_pass_through_the_means(model: RunningModel) -> None:
    (row,) = packed(model, EXAMPLES, per_row=len(EXAMPLES))
    parameter = next(model.model.parameters()).requires_grad_()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(answer_means(row, answer_logprobs(model, row)).sum(), parameter)
    finally:
        parameter.requires_grad_(False)
    assert gradient.abs().sum() > 0
    np.testing.assert_array_equal(score_rows(model, [row]).means, score(model, EXAMPLES, len(EXAMPLES)).means)


def test_nothing_to_score_gives_no_scores_and_an_empty_answer_is_an_error(model: RunningModel) -> None:
    assert len(score(model, []).means) == len(score(model, []).exact) == 0
    with pytest.raises(AuditError, match="empty prompt or answer"):
        score(model, [Example("A puppy is", "")])


def test_an_example_fits_up_to_the_context_and_the_longest(model: RunningModel) -> None:
    example = EXAMPLES[0]
    n_tokens = len(model.tokenizer(example.prompt + example.answer)["input_ids"])
    assert fits(example, replace(model, context=n_tokens))
    assert not fits(example, replace(model, context=n_tokens - 1))
    assert not fits(example, replace(model, window=n_tokens - 1))
    long = Example("a puppy is" * LONGEST, " Rome")
    assert not fits(long, replace(model, context=1 << 20))
