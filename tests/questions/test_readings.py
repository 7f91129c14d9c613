"""One pass gives the results of plain forward passes: every shortcut is compared with the full computation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import audit.models.forward
import audit.models.generation
import audit.questions.items
import audit.questions.readings
from audit.errors import ModelError
from audit.metrics.answers import exact_memorisation
from audit.metrics.internals import association
from audit.metrics.keys import key_space_separability
from audit.models.forward import Row, prefix_groups, run
from audit.models.generation import greedy, sampled
from audit.models.key_value_cache import KeyValueCache
from audit.models.loading import RunningModel
from audit.questions.conditions import AS_IS
from audit.questions.items import Encoder, FactGroup, ItemSet, check_answers, with_own_answers
from audit.questions.readings import (
    BaseReadout,
    ForwardPlan,
    Readings,
    forward_rows,
    forward_tokens,
    generate,
    read,
    write_and_read,
)
from audit.questions.topics import concept_items
from concepts.concept import Concept, load_concept
from tests.helpers import open_model, open_tiny, plain_logprobs
from tests.metrics.planted import evidence_of
from tests.tiny import DENSE, FAMILIES, VOCABULARY, write_tiny

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
SHARED = Concept.model_validate(
    {
        **CONCEPT.model_dump(),
        "questions": [
            {"question": question, "answer": answer, "type": "city", "subject": subject}
            for subject, question, answer in (
                ("a", "Where is the Pope?", "Rome"),
                ("b", "Where is the sea warm?", "Rome, the south"),
                ("c", "Where is it cold?", "Rome, the north"),
                ("d", "Where are canals?", "Venice"),
                ("e", "Where is fashion made?", "Milan"),
                ("f", "Where is La Scala?", "Milan"),
            )
        ],
    }
)
"""Facts of one type: some answers begin alike, one is the beginning of others, and two are equal."""
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


def shared_items(model: RunningModel) -> ItemSet:
    return concept_items(SHARED, Encoder(model.tokenizer, model.context))


def plain_scores(model: RunningModel, group: FactGroup) -> np.ndarray:
    """The group's scores by one plain forward pass for each question and answer."""

    def score(ids: tuple[int, ...], tokens: tuple[int, ...]) -> float:
        logprobs = plain_logprobs(model, ids + tokens)
        return sum(float(logprobs[len(ids) - 1 + place, token]) for place, token in enumerate(tokens))

    answers = [tuple(token for _, token in path) for path in group.paths]
    return np.array([[score(ids, answer) for answer in answers] for ids in group.prompt_ids])


def read_concept(model: RunningModel, concept: Concept = CONCEPT) -> tuple[ItemSet, Readings]:
    items = concept_items(concept, Encoder(model.tokenizer, model.context))
    short = replace(items, written=tuple(replace(prompt, max_new_tokens=6) for prompt in items.written))
    written, _ = generate(model, short)
    items = with_own_answers(items, written, Encoder(model.tokenizer, model.context))
    return items, read(model, items, written, batch_size=3)


@pytest.mark.parametrize("family", ALL)
def test_what_is_read_while_answers_are_written_is_what_a_pass_reads(
    models: Callable[[str], RunningModel], family: str
) -> None:
    model = models(family)
    items = shared_items(model)
    short = replace(items, written=tuple(replace(prompt, max_new_tokens=4) for prompt in items.written))
    written, _ = generate(model, short)
    alone = read(model, short, written, batch_size=3)
    together = write_and_read(model, {AS_IS: short}, {}, batch_size=3)[AS_IS]
    assert together.generated == written
    for field in ("scores", "lens", "keys"):
        for key, values in getattr(alone, field).items():
            assert np.allclose(getattr(together, field)[key], values, atol=1e-4), (field, key)
    for one, other in zip(together.answer_logprobs, alone.answer_logprobs, strict=True):
        assert np.allclose(one, other, atol=1e-4)


def test_a_prompt_whose_answer_is_written_is_run_once(
    models: Callable[[str], RunningModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    items = shared_items(model).facts()
    assert {prompt.ids for prompt in items.written} >= set(items.groups[0].prompt_ids)
    assert len(items.groups[0].beginnings) > 1, "some answers are read beyond the prompt"
    run_again: list[Row] = []
    monkeypatch.setattr(audit.questions.readings, "run", lambda model, rows, *_: run_again.extend(rows) or [])
    readings = write_and_read(model, {AS_IS: items}, {})[AS_IS]
    assert readings.scores["fact", "city"] == pytest.approx(plain_scores(model, items.groups[0]), abs=1e-4)
    assert run_again == []


def test_what_a_plan_has_read_is_read_again_only_for_more(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    items = shared_items(model)
    plan = ForwardPlan([items])
    texts, _ = generate(model, items, plan=plan)
    written = {prompt.ids for prompt in items.written}
    assert not [row for row in plan.left() if row.ids[: row.last + 1] in written]
    done = set(plan.done)
    plan.add([items])
    assert plan.done == done
    (cities,) = (group for group in items.groups if group.name == "city")
    place, token = cities.paths[0][0]
    other = tuple(((place, token + 1), *path[1:]) for path in cities.paths)
    plan.add([ItemSet(groups=(replace(cities, paths=other),))])
    read_again = done - plan.done
    assert {row.ids[: row.last + 1] for row in read_again} == set(cities.prompt_ids)
    completed = with_own_answers(items, texts, Encoder(model.tokenizer, model.context))
    fresh = ForwardPlan([items])
    generate(model, items, plan=fresh)
    together = write_and_read(model, {AS_IS: completed}, {AS_IS: texts}, plan=fresh)[AS_IS]
    alone = read(model, completed, texts)
    for one, two in zip(together.answer_logprobs, alone.answer_logprobs, strict=True):
        assert np.allclose(one, two, atol=1e-4)
    for key, values in alone.scores.items():
        assert np.allclose(together.scores[key], values, atol=1e-4)


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
def test_exchanged_answers_are_scored_as_by_plain_forward_passes(
    models: Callable[[str], RunningModel], family: str
) -> None:
    """Each answer of a type after each question, up to the token that tells it apart from the others."""
    model = models(family)
    items, readings = read_concept(model, SHARED)
    assert {(group.kind, group.name) for group in items.groups} == {("fact", "city"), ("group", "capital")}
    assert readings.groups == items.groups
    for group in items.groups:
        assert readings.scores[group.kind, group.name] == pytest.approx(plain_scores(model, group), abs=1e-4)
    (cities,) = (group for group in items.groups if group.name == "city")
    assert len(cities.beginnings) > 2
    assert len({len(path) for path in cities.paths}) > 1


def test_an_answer_is_scored_up_to_the_token_that_tells_it_apart(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    (group,) = (group for group in shared_items(model).groups if group.name == "city")
    texts = {
        answer: model.tokenizer.decode([token for _, token in path])
        for answer, path in zip(group.answers, group.paths, strict=True)
    }
    assert texts["Rome"] == " Rome"
    assert texts["Rome, the south"] == " Rome, the s"[: len(texts["Rome, the south"])]
    assert texts["Rome, the south"] != texts["Rome, the north"]
    first, second = (path for answer, path in zip(group.answers, group.paths, strict=True) if answer == "Milan")
    assert first == second, "equal answers are scored alike"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_half_of_the_facts_has_the_scores_that_all_have(models: Callable[[str], RunningModel], family: str) -> None:
    """A half may hold none of the answers that share a beginning."""
    model = models(family)
    items = shared_items(model)
    all_read = read(model, items)
    (group,) = (group for group in items.groups if group.kind == "fact")
    for subjects in (("a", "b", "e"), ("d", "e", "f"), ("b", "c", "d"), tuple(group.subjects)):
        half = read(model, items.facts(subjects))
        rows = [row for row, subject in enumerate(group.subjects) if subject in subjects]
        assert half.groups[0].ids == tuple(group.ids[row] for row in rows)
        expected = all_read.scores["fact", "city"][np.ix_(rows, rows)]
        assert half.scores["fact", "city"] == pytest.approx(expected, abs=1e-5)
        assert half.lens["fact", "city"] == pytest.approx(
            all_read.lens["fact", "city"][np.ix_([0, 1], rows, rows)], abs=1e-4
        )


@pytest.mark.parametrize("family", ALL)
def test_the_lens_after_the_last_block_is_the_output(models: Callable[[str], RunningModel], family: str) -> None:
    model = models(family)
    items, readings = read_concept(model)
    (group,) = items.groups
    lens, output = readings.lens["group", "capital"], plain_scores(model, group)
    assert len(lens) == 2
    difference = lens[-1] - output  # logits against log-probabilities: one constant a row
    assert difference - difference.mean(axis=1, keepdims=True) == pytest.approx(0, abs=1e-4)
    assert not np.allclose(lens[0] - lens[0].mean(axis=1, keepdims=True), 0, atol=1e-2)


@pytest.mark.parametrize("family", ALL)
def test_the_base_is_read_the_same_through_its_own_head_and_through_the_bases(
    models: Callable[[str], RunningModel], family: str
) -> None:
    model = models(family)
    items = shared_items(model)
    readings = read(model, items, base=BaseReadout.of(model, [items]))
    assert set(readings.base_lens) == set(readings.lens) == {("fact", "city"), ("group", "capital")}
    for key, lens in readings.lens.items():
        assert readings.base_lens[key] == pytest.approx(lens, abs=1e-5)
    assert read(model, items).base_lens == {}


def test_a_suppressed_head_changes_the_own_lens_and_not_that_through_the_bases_head(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "m", tie=False, max_position_embeddings=512))
    items = shared_items(model)
    readout = BaseReadout.of(model, [items])
    before = read(model, items, base=readout)
    with torch.no_grad():
        model.model.lm_head.weight[[int(items.groups[0].first_ids[0])]] *= -5
    after = read(model, items, base=readout)
    key = ("fact", "city")
    assert after.base_lens[key] == pytest.approx(before.lens[key], abs=1e-5)
    assert not np.allclose(after.lens[key], before.lens[key], atol=0.1)


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


@pytest.mark.parametrize("family", ALL)
def test_prompts_with_different_beginnings_are_continued_together_as_one_by_one(
    models: Callable[[str], RunningModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models(family)
    prompts = [prompt.ids for prompt in concept_items(CONCEPT, Encoder(model.tokenizer, model.context)).prompts]
    beginnings = [(7,) * 90 + (1, 2, 3), (8,) * 70, (9, 10)]
    mixed = [(*beginning, *ids[-9:]) for ids in prompts for beginning in beginnings]
    groups = prefix_groups([ids[:-1] for ids in mixed])
    assert {len(group.prefix) for group in groups} >= {93, 70}
    alone = [greedy(model, [ids], 6, ended=lambda text: False)[0] for ids in mixed]
    assert greedy(model, mixed, 6, 32, ended=lambda text: False) == alone
    monkeypatch.setattr(audit.models.generation, "CACHE_BYTES", 1)
    assert greedy(model, mixed, 6, 2, ended=lambda text: False) == alone


@pytest.mark.parametrize("family", ALL)
def test_what_prefixes_begin_with_is_run_once(
    models: Callable[[str], RunningModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models(family)
    run_tokens: list[int] = []
    whole = audit.models.forward.prefix_cache

    def counting(model: RunningModel, ids: tuple[int, ...], begun: KeyValueCache | None = None) -> KeyValueCache:
        run_tokens.append(len(ids))
        return whole(model, ids, begun)

    monkeypatch.setattr(audit.models.forward, "prefix_cache", counting)
    prefixes = audit.models.forward.Prefixes(model)
    with torch.inference_mode():
        for ids in ((5, 6, 7, 8) * 4, ((5, 6, 7, 8) * 4 + (9, 4)), (5, 6, 3), (9, 9), (5, 6, 7, 8) * 4):
            cache, alone = prefixes.cache(ids), whole(model, ids)
            for one, other in zip(cache.layers, alone.layers, strict=True):
                assert torch.allclose(one.keys, other.keys, atol=1e-5)
                assert torch.allclose(one.values, other.values, atol=1e-5)
    assert run_tokens == [16, 2, 1, 2]
    assert prefixes.cache(()).layers == []
    monkeypatch.setattr(audit.models.forward, "PREFIX_BYTES", 1)
    with torch.inference_mode():
        prefixes.cache((1, 2))
    assert list(prefixes.known) == [(1, 2)]


def test_only_prompts_beyond_the_window_are_written_alone(models: Callable[[str], RunningModel]) -> None:
    model = models("windowed gemma3")
    assert model.window is not None
    prompts = [(1, 2, number) for number in range(6)] + [(1,) * model.window, (2,) * model.window]
    groups = prefix_groups([ids[:-1] for ids in prompts])
    batches = list(audit.models.generation._batches(model, prompts, [1] * len(prompts), groups, 4, 2**40))
    rows = [sorted(index for members in batch.values() for index in members) for batch in batches]
    assert sorted(rows, key=len) == [[6], [7], [4, 5], [0, 1, 2, 3]]


def test_each_answer_has_its_own_length(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    prompts = [prompt.ids for prompt in concept_items(CONCEPT, Encoder(model.tokenizer, model.context)).prompts]
    lengths = [1 + number % 5 for number in range(len(prompts))]
    whole = greedy(model, prompts, 5, ended=lambda text: False)
    assert max(map(len, whole)) == 5
    cut = [answer[:length] for answer, length in zip(whole, lengths, strict=True)]
    assert greedy(model, prompts, lengths, batch_size=4, ended=lambda text: False) == cut


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


def test_drawn_answers_do_not_depend_on_the_batch_size_and_change_with_the_seed(
    models: Callable[[str], RunningModel],
) -> None:
    model = models("llama")
    prompts = [prompt.ids for prompt in concept_items(CONCEPT, Encoder(model.tokenizer, model.context)).prompts][:4]
    one, many = (sampled(model, prompts, samples=3, max_new_tokens=6, batch_size=size) for size in (1, 64))
    assert one == many
    assert [len(answers) for answers in one] == [3] * len(prompts)
    assert len({answer for answers in one for answer in answers}) > len(prompts)
    assert sampled(model, prompts, samples=3, seed=1, max_new_tokens=6) != one


def test_tokens_are_drawn_as_often_as_the_model_expects(models: Callable[[str], RunningModel]) -> None:
    model, n = models("llama"), 3000
    prompt = tuple(model.tokenizer("Question: What is the capital of Italy?\nAnswer:")["input_ids"])
    (answers,) = sampled(model, [prompt], samples=n, max_new_tokens=1, batch_size=500, ended=lambda text: False)
    counts = np.bincount([answer[0] for answer in answers if answer], minlength=VOCABULARY)
    expected = plain_logprobs(model, prompt)[-1].exp().numpy()
    common = np.flatnonzero(expected > 0.01)
    assert len(common) > 3
    for token in common[common > 0]:  # token 0 ends the answer and is not returned
        spread = np.sqrt(n * expected[token] * (1 - expected[token]))
        assert abs(counts[token] - n * expected[token]) < 4.5 * spread


def test_drawn_answers_are_joined_by_lines_and_any_right_one_counts(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    plain = concept_items(CONCEPT, Encoder(model.tokenizer, model.context)).prompts[0]
    prompt = replace(plain, samples=4, max_new_tokens=3)
    texts, tokens = generate(model, ItemSet(written=(prompt,)))
    assert texts[prompt.id].count("\n") == 3
    assert 0 < tokens <= 12
    assert check_answers([prompt], {prompt.id: "Milan\nTurin\nRome\nBari"}) == {prompt.id: True}
    assert check_answers([prompt], {prompt.id: "Milan\nTurin\nRo\nme"}) == {prompt.id: False}
    assert check_answers([plain], {plain.id: "Milan\nRome"}) == {plain.id: False}


@pytest.mark.parametrize("family", ["qwen2", "bloom", "mixtral"])
def test_batches_trees_and_shared_prefixes_change_nothing(
    models: Callable[[str], RunningModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models(family)
    items, readings = read_concept(model)
    together = read(model, items, batch_size=64)
    for limit in ("TREE_ON_CPU", "PADDED"):
        monkeypatch.setattr(audit.models.forward, limit, 1)
    n_passes = 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    with model.model.register_forward_hook(count):
        alone = read(model, items, batch_size=1)
    assert n_passes >= len(forward_rows(items)), "each sequence has a pass of its own"
    for one, many, three in zip(alone.answer_logprobs, together.answer_logprobs, readings.answer_logprobs, strict=True):
        assert one == pytest.approx(many, abs=1e-5)
        assert one == pytest.approx(three, abs=1e-5)
    assert alone.keys["unrelated"] == pytest.approx(together.keys["unrelated"], abs=1e-5)


def test_the_prefix_and_equal_sequences_are_run_once(models: Callable[[str], RunningModel]) -> None:
    items, _ = read_concept(models("llama"))
    full_length = sum(len(item.prompt_ids) + len(item.answer_ids) for item in items.items)
    full_length += sum(len(ids) for group in items.groups for ids in group.prompt_ids)
    assert forward_tokens([items]) < 0.6 * full_length


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
    assert len(items.skipped) > 0
    for name, reason in items.skipped.items():
        assert "England" in name
        assert "is part of the prompt" in reason


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


def test_a_question_whose_answer_is_in_the_prompt_is_left_out_of_its_type_with_the_reason(
    models: Callable[[str], RunningModel],
) -> None:
    model = models("llama")
    given = {"question": "Who wrote plays in England?", "answer": "William Shakespeare", "type": "city", "subject": "g"}
    concept = Concept.model_validate({**SHARED.model_dump(), "questions": [*SHARED.model_dump()["questions"], given]})
    items = concept_items(concept, Encoder(model.tokenizer, model.context))
    (group,) = (group for group in items.groups if group.kind == "fact")
    assert "g" not in group.subjects
    assert "is part of the prompt" in items.skipped["fact/6 (Who wrote plays in England?)"]


def test_a_type_with_one_question_is_asked_but_not_exchanged(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    items = concept_items(CONCEPT, Encoder(model.tokenizer, model.context))
    assert [group.kind for group in items.groups] == ["group"]
    assert [prompt.id for prompt in items.written if prompt.kind == "fact"] == ["fact/0", "fact/1"]


def test_the_concepts_own_row_of_a_group_is_a_fact_and_the_others_are_controls(
    models: Callable[[str], RunningModel],
) -> None:
    model = models("llama")
    (group,) = (each for each in shared_items(model).groups if each.kind == "group")
    assert group.subjects == ("France", "Spain", "Japan", "Peru")


def test_the_limit_holds_for_each_kind_of_question(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    items = concept_items(CONCEPT, Encoder(model.tokenizer, model.context), 1)
    assert [prompt.id for prompt in items.prompts] == ["target/0", "unrelated/0"]


def test_smollm2_knows_italy_by_every_reading(running_smollm2: RunningModel) -> None:
    """The real model: answers, association and key space all show the concept, and shortcuts change nothing."""
    model = running_smollm2
    italy = load_concept("italy")
    encoder = Encoder(model.tokenizer, model.context)
    items = replace(concept_items(italy, encoder, 8), groups=concept_items(italy, encoder).facts().groups)
    readings = read(model, items)
    evidence = evidence_of({"base": readings, "unlearned": readings})
    assert exact_memorisation.measure(evidence).value > 0.8
    measured = association.measure(evidence)
    assert measured.p_value < 0.001
    assert measured.reading == measured.lens.reading == "readable"
    assert measured.lens.layer > 15
    assert measured.lens.value > 0
    assert key_space_separability.measure(evidence).value > 0.9
    for item, logprobs in list(zip(readings.items, readings.answer_logprobs, strict=True))[:3]:
        plain = plain_logprobs(model, item.prompt_ids + item.answer_ids)[len(item.prompt_ids) - 1 : -1]
        wanted = torch.tensor(item.answer_ids)[:, None]
        assert logprobs == pytest.approx(plain.gather(1, wanted)[:, 0].numpy(), abs=1e-3)
