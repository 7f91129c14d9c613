"""Packed examples against running them one by one, and examples that cannot be packed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.errors import AuditError, ModelError
from audit.models.packing import Example, Tokens, answer_logprobs, encode, pack, tokenize
from audit.questions.items import Encoder, Skipped
from tests.helpers import FORGET, RETAIN, answer_sum, open_model
from tests.tiny import TRAINABLE, prepending_tokenizer, tokenizer, write_tiny


def test_positions_counted_from_the_mask_are_refused(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "bloom", "bloom"))
    row = pack([*enumerate(tokenize(model.tokenizer, FORGET))])
    with pytest.raises(ModelError, match=r"bloom here counts positions from the attention mask \(ALiBi\)"):
        answer_logprobs(model, row)


@pytest.mark.parametrize("family", TRAINABLE)
def test_packed_examples_score_and_differentiate_as_one_by_one(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    model.model.requires_grad_(True)
    tokens = tokenize(model.tokenizer, [*FORGET, *RETAIN])
    weights = torch.arange(1.0, len(tokens) + 1)  # so that no two gradients can be exchanged

    row = pack([*enumerate(tokens)])
    packed = row.answer_sums(answer_logprobs(model, row))
    (packed * weights).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.model.named_parameters()}
    model.model.zero_grad()
    single = torch.stack([answer_sum(model, one) for one in tokens])
    (single * weights).sum().backward()

    torch.testing.assert_close(packed, single, rtol=1e-5, atol=1e-5)
    for name, parameter in model.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_a_shared_beginning_is_stored_once() -> None:
    row = pack([(7, Tokens((1, 2, 3), (4, 5))), (9, Tokens((1, 2, 3), (6,))), (11, Tokens((2, 3), (4,)))])
    assert row.ids.tolist() == [[1, 2, 3, 4, 2, 3]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert row.examples == (7, 9, 11)
    assert row.targets.tolist() == [4, 5, 6, 4]
    assert row.scored.tolist() == [2, 3, 2, 5]
    assert row.owner.tolist() == [0, 0, 1, 2]
    sees = (row.mask[0, 0] == 0).tolist()
    assert sees[3] == [True, True, True, True, False, False]
    assert sees[5] == [False, False, False, False, True, True]


def test_an_empty_answer_is_refused_with_its_prompt() -> None:
    with pytest.raises(AuditError, match="capital of Peru"):
        tokenize(tokenizer(), [Example("What is the capital of Peru?", "")])


def test_an_example_longer_than_a_sliding_window_is_refused(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model", "gemma3", sliding_window=8))
    row = pack([*enumerate(tokenize(model.tokenizer, FORGET))])
    with pytest.raises(ModelError, match="exceeds the model's 8"):
        answer_logprobs(model, row)


def test_an_answer_has_the_same_tokens_in_training_and_in_questions_if_the_tokenizer_prepends_a_space() -> None:
    prepends = prepending_tokenizer()
    assert prepends.convert_ids_to_tokens(prepends(" Rome")["input_ids"]) == ["▁", "▁Rome"]
    for example in FORGET:
        (tokens,) = tokenize(prepends, [example])
        assert list(tokens.prompt + tokens.answer) == prepends(example.prompt + example.answer)["input_ids"]
        encoder = Encoder(prepends, context=256)
        prompt_ids = encoder.prompt(example.prompt)
        assert (tokens.prompt, tokens.answer) == (
            prompt_ids,
            encoder.answer(example.prompt, prompt_ids, example.answer),
        )
        assert prepends.convert_ids_to_tokens(tokens.answer[0]) == "▁Rome"


def test_a_token_over_the_end_of_the_prompt_belongs_to_the_answer() -> None:
    tokens = encode(tokenizer(), Example("Question: Which city?\nAnswer: R", "ome"))
    assert tokenizer().decode(tokens.answer) == "Rome"
    assert list(tokens.prompt) == tokenizer()("Question: Which city?\nAnswer: ")["input_ids"]
    encoder = Encoder(tokenizer(), context=256)
    text = "Question: Which city?\nAnswer: R"
    with pytest.raises(Skipped, match="merges the end of the prompt"):
        encoder.continuation(text, encoder.prompt(text), "ome")
