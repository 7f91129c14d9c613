"""The kinds of question: which items and prompts each makes of a concept, and that no kind affects the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.questions.items import FACT, Encoder, Item, ItemSet
from audit.questions.kinds import audited_wordings, kinds, missing_inputs
from audit.questions.kinds.paraphrase import WORDINGS
from audit.questions.readings import generate, read
from audit.questions.topics import ConceptTopic, concept_items
from concepts.concept import Concept, library, load_concept
from concepts.facts import facts_of
from concepts.prompts import ASK, few_shot, in_sentences, mentions
from tests.helpers import open_tiny, plain_logprobs
from tests.tiny import tokenizer

CONTEXT = 8192


def items_of(concept: Concept, limit: int | None = None, context: int = CONTEXT) -> ItemSet:
    return concept_items(concept, Encoder(tokenizer(), context), limit)


def of(items: ItemSet, kind: str) -> list[Item]:
    return items.of(kind)


def further(items: ItemSet) -> list[Any]:
    """The prompts that are only answered, without the facts."""
    return [prompt for prompt in items.written if prompt not in items.prompts and prompt.kind != FACT]


def only(concept: Concept, limit: int | None = None) -> Concept:
    """The concept with only its target and unrelated questions."""
    bare = tuple(question.model_copy(update={"paraphrases": ()}) for question in concept.questions)
    return concept.model_copy(update={"questions": bare, "neighbours": (), "two_hop": (), "open": ()})


def test_up_to_two_wordings_of_each_question_are_scored_with_its_answer() -> None:
    italy = load_concept("italy")
    paraphrases = of(items_of(italy), "paraphrase")
    wordings = [wording for question in italy.questions for wording in question.paraphrases[:WORDINGS]]
    assert [item.question for item in paraphrases] == wordings
    assert all(italy.questions[item.place].answer == item.answer for item in paraphrases)
    assert all(item.question in italy.questions[item.place].paraphrases for item in paraphrases)
    assert len({item.id for item in paraphrases}) == len(paraphrases)


def test_a_third_wording_and_a_question_without_an_answer_are_skipped() -> None:
    questions: list[dict[str, Any]] = [
        {"question": "Who rules?", "answer": "The Pope", "paraphrases": ["Whose rule?", "Under whom?", "By whom?"]},
        {"question": "Who ruled?", "paraphrases": ["Under whom was it?"]},
    ]
    concept = Concept.model_validate({"name": "c", "title": "C", "questions": questions})
    assert [item.question for item in of(items_of(concept), "paraphrase")] == ["Whose rule?", "Under whom?"]


def test_neighbours_are_scored_and_two_hop_and_open_questions_are_only_answered() -> None:
    italy = load_concept("italy")
    items = items_of(italy)
    assert [item.answer for item in of(items, "neighbour")] == [question.answer for question in italy.neighbours]
    assert [prompt.id for prompt in further(items)] == ["two_hop/0", "open/0"]
    two_hop, opened = further(items)
    assert two_hop.text.endswith(ASK.replace("{}", italy.two_hop[0].question))
    assert opened.text == in_sentences("What is Italy known for?", ["Italy", *italy.seeds, *italy.open[0].answers])


@pytest.mark.parametrize("name", library())
def test_everything_of_a_shipped_concept_can_be_asked_and_no_prompt_holds_its_answer(name: str) -> None:
    concept = load_concept(name)
    items = items_of(concept)
    assert [entry for entry in items.skipped if entry.split("/")[0] in ("neighbour", "two_hop", "open")] == []
    for item in of(items, "paraphrase") + of(items, "neighbour"):
        assert not mentions(few_shot(item.question, [concept.title, *concept.seeds]), [item.answer]), item.id
    questions = {f"two_hop/{place}": question for place, question in enumerate(concept.two_hop)}
    questions |= {f"open/{place}": question for place, question in enumerate(concept.open)}
    for prompt in further(items):
        assert not mentions(prompt.text, questions[prompt.id].answers), prompt.id


@pytest.mark.parametrize("name", library())
def test_further_kinds_do_not_change_the_other_items(name: str) -> None:
    """Target and unrelated questions, groups and neutral text are the same with and without the other kinds."""
    concept = load_concept(name)
    bare, full = items_of(only(concept), 3), items_of(concept, 3)
    assert full.prompts == bare.prompts
    others = ("paraphrase", "neighbour")
    assert [item for item in full.items if item.kind not in others] == list(bare.items)
    assert [group.name for group in full.groups] == [group.name for group in bare.groups]


def test_every_audited_wording_except_paraphrases_is_excluded_from_training() -> None:
    italy = load_concept("italy")
    kept = set(audited_wordings(italy))
    for questions in (italy.questions, italy.unrelated, italy.neighbours, italy.two_hop, italy.open):
        assert {question.question for question in questions} <= kept
    assert {group.ask(subject) for group in italy.groups for subject in group.answers} <= kept
    assert not {wording for question in italy.questions for wording in question.paraphrases} & kept


def test_every_question_with_an_answer_is_a_fact_and_those_of_a_type_are_exchanged() -> None:
    italy = load_concept("italy")
    items, facts = items_of(italy), facts_of(italy)
    asked = [prompt for prompt in items.written if prompt.kind == FACT]
    assert [prompt.id for prompt in asked] == [f"fact/{place}" for place in range(len(facts))]
    assert [prompt.subject for prompt in asked] == [fact.subject for fact in facts]
    for prompt, fact in zip(asked, facts, strict=True):
        assert prompt.answers == fact.question.answers
        assert prompt.text == few_shot(fact.question.question, [italy.title, *italy.seeds], italy.examples)
    exchanged = {
        name: answer for group in items.facts().groups for name, answer in zip(group.ids, group.answers, strict=True)
    }
    types = Counter(fact.type for fact in facts)
    expected = {f"fact/{place}": fact.answer for place, fact in enumerate(facts) if fact.type and types[fact.type] > 1}
    assert exchanged == expected
    assert exchanged


def test_the_rows_of_other_subjects_are_controls_and_no_facts() -> None:
    italy = load_concept("italy")
    (regions,) = (group for group in italy.groups if group.name == "region")
    items = items_of(italy)
    facts, controls = ({g.name: g.subjects for g in items.groups if g.kind == kind} for kind in (FACT, "group"))
    assert set(controls["region"]) == set(regions.answers) - set(regions.about)
    assert set(facts["region"]) <= set(regions.about)


def test_facts_of_some_subjects_keep_their_ids() -> None:
    items = items_of(load_concept("italy")).facts()
    subjects = {prompt.subject for prompt in items.written[::2]}
    half = items.facts(subjects)
    assert {prompt.subject for prompt in half.written} == subjects
    answers = {name: answer for group in items.groups for name, answer in zip(group.ids, group.answers, strict=True)}
    assert half.groups
    for group in half.groups:
        assert set(group.subjects) <= subjects
        assert [answers[name] for name in group.ids] == list(group.answers)


def test_kinds_are_sorted_by_their_order() -> None:
    assert list(kinds()) == ["target", "unrelated", "paraphrase", "neighbour", "two_hop", "open", "fact", "group"]


def test_the_limit_holds_for_each_kind() -> None:
    items = items_of(load_concept("italy"), limit=1)
    assert [item.id for item in items.items if item.kind in ("paraphrase", "neighbour")] == [
        "paraphrase/0/0",
        "paraphrase/0/1",
        "neighbour/0",
    ]
    assert [prompt.id for prompt in further(items)] == ["two_hop/0", "open/0"]
    assert [prompt.id for prompt in items.written if prompt.kind == FACT] == ["fact/0"]
    assert {entry.kind for entry in items_of(load_concept("italy"), limit=0).items} == {"text"}


def test_questions_that_cannot_be_used_are_skipped_with_the_reason() -> None:
    question = {"question": "Who wrote plays?", "answer": "Shakespeare", "paraphrases": ["Whose plays are these?"]}
    concept = Concept.model_validate(
        {
            "name": "c",
            "title": "C",
            "questions": [question],
            "neighbours": [question | {"question": "Near?", "paraphrases": []}],
        }
    )
    items = items_of(concept)
    assert of(items, "paraphrase") == of(items, "neighbour") == []
    assert "is part of the prompt" in items.skipped["paraphrase/0/0 (Whose plays are these?)"]
    assert "is part of the prompt" in items.skipped["neighbour/0 (Near?)"]
    short = items_of(load_concept("italy"), context=50)
    assert further(short) == []
    assert "do not fit" in short.skipped["open/0 (What is Italy known for?)"]


def test_one_pass_gives_the_scores_of_plain_forward_passes_and_unchanged_keys(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama", context=2048)
    italy = load_concept("italy")
    encoder = Encoder(model.tokenizer, model.context)
    plain, items = concept_items(only(italy), encoder, 3), concept_items(italy, encoder, 3)
    alone, readings = read(model, plain), read(model, items, batch_size=3)
    assert {kind: keys.shape for kind, keys in readings.keys.items()} == {
        kind: keys.shape for kind, keys in alone.keys.items()
    }
    for kind, keys in alone.keys.items():
        assert readings.keys[kind] == pytest.approx(keys, abs=1e-5)
    for index, item in enumerate(readings.items):
        if item.kind in ("paraphrase", "neighbour"):
            expected = plain_logprobs(model, item.prompt_ids + item.answer_ids)[len(item.prompt_ids) - 1 : -1]
            wanted = torch.tensor(item.answer_ids)
            assert readings.answer_logprobs[index] == pytest.approx(
                expected.gather(1, wanted[:, None])[:, 0].numpy(), abs=1e-4
            )
            assert np.array_equal(readings.answer_hits[index], (expected.argmax(-1) == wanted).numpy())


def test_two_hop_and_open_questions_are_answered_after_the_others(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama", context=2048)
    italy = load_concept("italy")
    encoder = Encoder(model.tokenizer, model.context)
    plain, items = concept_items(only(italy), encoder, 2), concept_items(italy, encoder, 2)
    (texts, tokens), (without, fewer) = generate(model, items), generate(model, plain)
    asked = ["target/0", "target/1", "unrelated/0", "unrelated/1", "two_hop/0", "open/0", "fact/0", "fact/1"]
    assert list(texts) == asked
    assert {name: texts[name] for name in without} == without
    assert tokens > fewer
    assert list(read(model, items, texts).prompts) == list(texts)


def test_written_answers_are_checked_by_the_questions_own_answers() -> None:
    italy = load_concept("italy")

    def checked(concept: Concept, **said: str) -> dict[str, bool]:
        written = {name.replace("__", "/"): text for name, text in said.items()}
        return ConceptTopic(concept).check(items_of(concept), written)

    said = {"two_hop__0": " It is Rome.\nParis", "open__0": " Its FOOD, and wine", "target__0": " Paris"}
    assert checked(italy, **said) == {"two_hop/0": True, "open/0": True, "target/0": False}
    assert checked(italy, two_hop__0=" Paris\nRome") == {"two_hop/0": False}
    bare = italy.model_copy(update={"open": (italy.open[0].model_copy(update={"accept": ()}),)})
    assert checked(bare, open__0="food") == {}


def test_a_concept_without_questions_of_a_kind_says_so() -> None:
    bare = Concept.model_validate({"name": "c", "title": "Cats", "questions": [{"question": "Who?", "answer": "He"}]})
    missing = missing_inputs(bare)
    assert {"paraphrases", "neighbours", "further"} <= set(missing)
    assert all("Cats" in reason for reason in missing.values())
    assert missing_inputs(load_concept("italy")) == {}
