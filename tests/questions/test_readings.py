"""One pass gives the results of plain forward passes: every shortcut is compared with the full computation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import audit.models.forward
import audit.questions.items
from audit.errors import ModelError
from audit.metrics.answers import exact_memorisation
from audit.metrics.internals import association
from audit.metrics.keys import key_space_separability
from audit.models.forward import Row, run, shared_prefix, tokens_run
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.questions.items import Encoder, ItemSet, with_own_answers
from audit.questions.readings import Readings, forward_tokens, generate, read
from audit.questions.topics import concept_items
from concepts.concept import Concept, load_concept
from tests.helpers import open_tiny, plain_logprobs
from tests.metrics.planted import evidence_of
from tests.tiny import DENSE, FAMILIES, write_tiny

CAPITALS = {"Italy": "Rome", "France": "Paris", "Spain": "February", "Japan": "puppy", "Peru": "insulin"}
"""Answers whose first tokens differ in the tiny vocabulary."""
CONCEPT = Concept.model_validate(
    {
        "name": "italy",
        "title": "Italy",
        "seeds": ["Italy"],
        "questions": [
            {"question": "What is the capital of Italy?", "answer": "Rome"},
            {"question": "Which city has canals?", "answer": "Venice, in the north"},
            {"question": "Where is Milan?"},
        ],
        "unrelated": [
            {"question": "What is a young dog called?", "answer": "A puppy"},
            {"question": "What does the pancreas make?", "answer": "Insulin"},
        ],
        "groups": [
            {
                "name": "capital",
                "question": "What is the capital of {}?",
                "answers": CAPITALS,
                "about": ["Italy"],
            }
        ],
    }
)
LONG: dict[str, object] = {"max_position_embeddings": 512}


@pytest.fixture(autouse=True)
def short_neutral_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        audit.questions.items, "neutral_text", lambda: "Rain falls on hills.\n\nRivers run to the sea, slowly."
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunningModel]:
    built: dict[str, RunningModel] = {}

    def model(family: str) -> RunningModel:
        if family not in built:
            window = {"sliding_window": 8} if family == "windowed gemma3" else {}
            built[family] = open_tiny(tmp_path_factory.mktemp("model") / "m", family.split()[-1], **window)
        return built[family]

    return model


ALL = (*FAMILIES, "windowed gemma3")


def read_concept(model: RunningModel) -> tuple[ItemSet, Readings]:
    items = concept_items(CONCEPT, Encoder(model.tokenizer, model.context))
    short = replace(items, written=tuple(replace(prompt, max_new_tokens=6) for prompt in items.written))
    written, _ = generate(model, short)
    items = with_own_answers(items, written, Encoder(model.tokenizer, model.context))
    return items, read(model, items, written, batch_size=3)


@pytest.mark.parametrize("family", ALL)
def test_answers_are_scored_as_by_plain_forward_passes(models: Callable[[str], RunningModel], family: str) -> None:
    model = models(family)
    items, readings = read_concept(model)
    assert {item.kind for item in items.items} >= {"target", "unrelated", "text"}
    for item, logprobs, hits in zip(items.items, readings.answer_logprobs, readings.answer_hits, strict=True):
        expected = plain_logprobs(model, item.prompt_ids + item.answer_ids)[len(item.prompt_ids) - 1 : -1]
        wanted = torch.tensor(item.answer_ids)
        assert logprobs == pytest.approx(expected.gather(1, wanted[:, None])[:, 0].numpy(), abs=1e-4)
        assert (hits == (expected.argmax(-1) == wanted).numpy()).all()


@pytest.mark.parametrize("family", ALL)
def test_candidates_are_scored_as_by_plain_forward_passes(models: Callable[[str], RunningModel], family: str) -> None:
    model = models(family)
    items, readings = read_concept(model)
    (group,) = items.groups
    expected = np.stack([plain_logprobs(model, ids)[-1].numpy()[group.first_ids] for ids in group.prompt_ids])
    assert readings.candidate_logprobs["capital"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_the_lens_after_the_last_block_is_the_output(models: Callable[[str], RunningModel], family: str) -> None:
    _, readings = read_concept(models(family))
    lens, output = readings.candidate_lens["capital"], readings.candidate_logprobs["capital"]
    assert len(lens) == 2
    difference = lens[-1] - output  # logits against log-probabilities: one constant a row
    assert difference - difference.mean(axis=1, keepdims=True) == pytest.approx(0, abs=1e-4)
    assert not np.allclose(lens[0] - lens[0].mean(axis=1, keepdims=True), 0, atol=1e-2)


@pytest.mark.parametrize("family", [*DENSE, "windowed gemma3"])
def test_key_vectors_are_what_the_output_matrix_reads(models: Callable[[str], RunningModel], family: str) -> None:
    model = models(family)
    items, readings = read_concept(model)
    prompts = [prompt for prompt in items.prompts if prompt.kind == "target"]
    assert readings.keys["target"].shape == (3, 2, model.architecture.d_mlp)
    seen: list[torch.Tensor] = []
    out = model.model.get_submodule(model.architecture.out_module.format(layer=1))
    handle = out.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)[-1].clone()))
    for prompt in prompts:
        plain_logprobs(model, prompt.ids)
    handle.remove()
    assert readings.keys["target"][:, 1] == pytest.approx(torch.stack(seen).numpy(), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_key_vectors_are_those_of_transformer_lens(
    models: Callable[[str], RunningModel], tmp_path: Path, family: str
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model = models(family)
    items, readings = read_concept(model)
    sizes: dict[str, object] = {"n_positions": 512} if family == "gpt2" else LONG
    bridge = TransformerBridge.boot_transformers(str(write_tiny(tmp_path / "m", family, **sizes)), device="cpu")
    prompt = items.prompts[0]
    _, cache = bridge.run_with_cache(torch.tensor([prompt.ids]))
    for layer in range(2):
        theirs = cache[f"blocks.{layer}.mlp.hook_post"][0, -1].detach().numpy()
        assert readings.keys["target"][0, layer] == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_greedy_answers_are_those_of_generating_one_by_one(models: Callable[[str], RunningModel], family: str) -> None:
    model = models(family)
    prompts = [prompt.ids for prompt in concept_items(CONCEPT, Encoder(model.tokenizer, model.context)).prompts]
    written = greedy(model, prompts, max_new_tokens=8, batch_size=4)
    assert any(written)
    for ids, answer in zip(prompts, written, strict=True):
        plain = model.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=8,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        assert plain[: len(answer)] == list(answer)
        rest = plain[len(answer) : len(answer) + 1]
        ended = len(answer) == 8 or rest == [0] or "\n" in model.tokenizer.decode(answer).lstrip()
        assert ended, "the answer stopped although neither a line, an end token nor the limit was reached"


def test_generation_stops_at_the_end_of_the_line(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    newline = model.tokenizer("\n")["input_ids"][-1]
    letter = model.tokenizer("A")["input_ids"][-1]
    said = iter([[letter, newline], [newline, newline], [letter], [newline]])

    def speak(_: torch.nn.Module, __: tuple[object, ...], logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(said)]), logits.shape[-1]).float()

    handle = model.model.lm_head.register_forward_hook(speak)
    try:
        first, second = greedy(model, [(5,), (6,)], max_new_tokens=9, batch_size=2)
    finally:
        handle.remove()
    assert first == (letter, newline)
    assert second == (newline, newline, letter, newline), "an empty first line is not the answer yet"


def test_batches_and_shared_prefixes_change_nothing(models: Callable[[str], RunningModel]) -> None:
    model = models("qwen2")
    items, readings = read_concept(model)
    alone = read(model, items, batch_size=1)
    together = read(model, items, batch_size=64)
    for one, many, three in zip(alone.answer_logprobs, together.answer_logprobs, readings.answer_logprobs, strict=True):
        assert one == pytest.approx(many, abs=1e-5)
        assert one == pytest.approx(three, abs=1e-5)
    assert alone.keys["unrelated"] == pytest.approx(together.keys["unrelated"], abs=1e-5)


def test_the_prefix_and_equal_sequences_are_run_once(models: Callable[[str], RunningModel]) -> None:
    items, _ = read_concept(models("llama"))
    full_length = sum(len(item.prompt_ids) + len(item.answer_ids) for item in items.items)
    full_length += sum(len(ids) for group in items.groups for ids in group.prompt_ids)
    assert forward_tokens([items]) < 0.6 * full_length


def test_the_shared_prefix_of_sequences() -> None:
    assert shared_prefix([(1, 2, 3), (1, 2, 4), (1, 2)]) == (1, 2)
    assert shared_prefix([(1, 2), (3,)]) == ()
    assert shared_prefix([(1, 2)]) == ()
    assert tokens_run([Row((1, 2, 3, 9), 2), Row((1, 2, 4), 2)]) == 2 + 2 + 1


def test_hooks_are_gone_after_a_pass_and_after_a_failed_one(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")

    def hooks() -> int:
        modules = list(model.model.modules())
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    before = hooks()
    list(run(model, [Row((1, 2, 3), 1)]))
    with pytest.raises(IndexError):
        list(run(model, [Row((1, 2, 10**6), 1)]))
    assert hooks() == before


def test_long_texts_are_run_in_batches_whose_logits_fit(
    models: Callable[[str], RunningModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    rows = [Row(tuple(range(1, 21)), 0) for _ in range(5)]
    assert len(list(run(model, rows, batch_size=5))) == 1
    monkeypatch.setattr(audit.models.forward, "LOGITS_AT_ONCE", 40 * model.architecture.d_vocab)
    assert [len(batch.rows) for batch in run(model, rows, batch_size=5)] == [2, 2, 1]


def test_a_non_finite_output_is_an_error(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama")
    model.model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(ModelError, match="not a finite number"):
        list(run(model, [Row((1, 2, 3), 1)]))


def test_answers_that_cannot_be_scored_are_skipped_with_the_reason(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    question = {"question": "Who wrote plays in England?", "answer": "William Shakespeare"}
    concept = Concept.model_validate({**CONCEPT.model_dump(), "questions": [question]})
    items = concept_items(concept, Encoder(model.tokenizer, model.context))
    assert [item for item in items.items if item.kind == "target"] == []
    (name,) = items.skipped
    assert "England" in name
    assert "is part of the prompt" in items.skipped[name]


def test_prompts_beyond_the_context_are_skipped(models: Callable[[str], RunningModel]) -> None:
    items = concept_items(CONCEPT, Encoder(models("llama").tokenizer, 50))
    assert items.prompts == ()
    assert all("do not fit" in reason for reason in items.skipped.values())


def test_an_empty_own_answer_is_skipped_and_the_given_one_is_kept(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    items = concept_items(CONCEPT, Encoder(model.tokenizer, model.context))
    said = {prompt.id: " Rome\n" for prompt in items.prompts} | {"target/0": "\n\n"}
    both = with_own_answers(items, said, Encoder(model.tokenizer, model.context))
    assert [item.id for item in both.items if item.kind == "target_own"] == ["target_own/1", "target_own/2"]
    assert [item.id for item in both.items if item.kind == "target"] == ["target/0", "target/1"]
    assert "empty" in both.skipped["the base's own answer to target/0 (What is the capital of Italy?)"]


def test_candidates_with_the_same_first_token_are_skipped_and_the_concepts_own_row_stays(
    models: Callable[[str], RunningModel],
) -> None:
    model = models("llama")
    answers = {"France": "Rome on the Seine"} | {name: CAPITALS[name] for name in ("Italy", "Spain", "Japan", "Peru")}
    group = {"name": "g", "question": "What is the capital of {}?", "answers": answers, "about": ["Italy"]}
    concept = Concept.model_validate({**CONCEPT.model_dump(), "groups": [group]})
    (candidates,) = concept_items(concept, Encoder(model.tokenizer, model.context)).groups
    assert candidates.subjects == ("Italy", "Spain", "Japan", "Peru")
    assert candidates.about == (0,)
    assert "begins like" in candidates.skipped["France"]


def test_a_group_with_too_few_usable_rows_is_skipped(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    answers = {"France": "Rome on the Seine"} | {name: CAPITALS[name] for name in ("Italy", "Spain", "Japan")}
    group = {"name": "g", "question": "What is the capital of {}?", "answers": answers, "about": ["Italy"]}
    concept = Concept.model_validate({**CONCEPT.model_dump(), "groups": [group]})
    items = concept_items(concept, Encoder(model.tokenizer, model.context))
    assert items.groups == ()
    assert "France: 'Rome on the Seine' begins like 'Rome'" in items.skipped["group g"]


def test_the_limit_holds_for_each_kind_of_question(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    items = concept_items(CONCEPT, Encoder(model.tokenizer, model.context), 1)
    assert [prompt.id for prompt in items.prompts] == ["target/0", "unrelated/0"]


def test_smollm2_knows_italy_by_every_reading(running_smollm2: RunningModel) -> None:
    """The real model: answers, association and key space all show the concept, and shortcuts change nothing."""
    model = running_smollm2
    italy = load_concept("italy")
    items = concept_items(italy, Encoder(model.tokenizer, model.context), 8)
    readings = read(model, items)
    evidence = evidence_of({"base": readings, "unlearned": readings})
    assert exact_memorisation.measure(evidence).value > 0.8
    measured = association.measure(evidence)
    assert measured.p_value < 0.001
    assert measured.reading == measured.lens.reading == "readable"
    assert measured.lens.layer > 15
    assert key_space_separability.measure(evidence).value > 0.9
    for item, logprobs in list(zip(readings.items, readings.answer_logprobs, strict=True))[:3]:
        plain = plain_logprobs(model, item.prompt_ids + item.answer_ids)[len(item.prompt_ids) - 1 : -1]
        wanted = torch.tensor(item.answer_ids)[:, None]
        assert logprobs == pytest.approx(plain.gather(1, wanted)[:, 0].numpy(), abs=1e-3)
