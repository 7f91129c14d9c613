"""Jailbreak prompts: their files never contain the answer; the items made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.attacks import AttackInput
from audit.attacks.jailbreaks import CONTROLS, QUESTIONS, UNRELATED, conditions
from audit.models.forward import shared_prefix
from audit.questions.conditions import AS_IS
from audit.questions.items import FACT, Encoder, FactGroup, ItemSet, with_own_answers
from audit.questions.readings import read_conditions
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from concepts.concept import Concept, Question, load_concept
from concepts.facts import facts_of
from concepts.files import ConceptFileError
from concepts.jailbreaks import PLAIN, jailbreaks, load_jailbreak, translated, without
from concepts.prompts import few_shot, mentions, prefix
from tests.helpers import open_tiny
from tests.tiny import tokenizer

KINDS = {jailbreak.name: jailbreak for jailbreak in jailbreaks()}
CONTEXT = 8192


ENCODER = Encoder(tokenizer(), CONTEXT)


def under_prompts(concept: Concept, limit: int | None = None, items: ItemSet | None = None) -> dict[str, ItemSet]:
    """Prompt -> its item set."""
    topic = ConceptTopic(concept)
    given = AttackInput(None, ENCODER, topic, items or topic.items(ENCODER), Settings(limit=limit))
    return {each.condition.dose: each.items for each in conditions(given)}


def facts_under(items: ItemSet) -> list[FactGroup]:
    return [group for group in items.groups if group.kind == FACT]


def in_german(concept: Concept) -> Concept:
    questions = tuple(
        question.model_copy(update={"translations": {"de": f"Frage {place}?"}})
        for place, question in enumerate(concept.questions)
    )
    return concept.model_copy(update={"questions": questions})


def test_the_shipped_prompts_start_with_the_plain_one() -> None:
    assert list(KINDS) == [PLAIN, "german", "in_context", "persona", "pretext"]


def test_the_plain_prompt_is_the_few_shot_prompt() -> None:
    plain = KINDS[PLAIN]
    prompt = plain.before("", [], ["Italy"]).text + plain.ask.replace("{}", "Where is Rome?")
    assert prompt == few_shot("Where is Rome?", ["Italy"])


def test_the_text_of_a_prompt_mentions_no_answer_of_the_type_that_is_read() -> None:
    concept = load_concept("italy")
    answers = {f"fact/{place}": fact.question.answers for place, fact in enumerate(facts_of(concept))}
    items = under_prompts(concept)["in_context"]
    assert facts_under(items)
    texts = [ENCODER.tokenizer.decode(shared_prefix(group.prompt_ids)) for group in facts_under(items)]
    assert len(set(texts)) > 1
    for group, text in zip(facts_under(items), texts, strict=True):
        assert len(text) > 200
        assert not mentions(text, [answer for name in group.ids for answer in answers[name]])


def test_the_facts_of_a_type_are_all_exchanged_under_every_prompt() -> None:
    concept = in_german(load_concept("italy"))
    plain = ConceptTopic(concept).items(ENCODER).facts().groups
    for name, items in under_prompts(concept).items():
        if name != "german":  # only the questions have translations, not the rows of groups
            assert [(group.name, group.ids, group.answers) for group in facts_under(items)] == [
                (group.name, group.ids, group.answers) for group in plain
            ]
    assert facts_under(under_prompts(concept)["german"])


def test_the_plain_prompt_and_prompts_with_text_are_not_answered() -> None:
    concept = load_concept("italy")
    items = under_prompts(concept)
    assert items[PLAIN].written == items["in_context"].written == ()
    assert len(items["persona"].written) == len(facts_of(concept))
    plain = ConceptTopic(concept).items(ENCODER).facts()
    assert {ids for group in facts_under(items[PLAIN]) for ids in group.prompt_ids} == {
        ids for group in plain.groups for ids in group.prompt_ids
    }


def test_sentences_with_the_answer_are_omitted_and_counted() -> None:
    text = "Rome is old. The Tiber flows there. Nobody built Rome in a day! Rain falls."
    assert without(text, ["Rome"], words=100) == (["The Tiber flows there.", "Rain falls."], 2)
    assert without(text, ["Rome"], words=3) == (["The Tiber flows there."], 1)


def test_a_prompt_without_text_is_skipped_with_the_reason() -> None:
    items = under_prompts(load_concept("italy").model_copy(update={"text": ""}))["in_context"]
    assert not items.groups
    assert any("no text about the concept" in why for why in items.skipped.values())


def test_questions_without_a_translation_are_skipped_in_german_with_the_reason() -> None:
    items = under_prompts(load_concept("italy"))["german"]
    assert not items.written
    assert "42 of 42 questions have no translation" in items.skipped["prompt german"]


def test_german_questions_keep_the_answers_in_english() -> None:
    items = under_prompts(in_german(load_concept("italy")))["german"]
    assert {prompt.question for prompt in items.written} <= {f"Frage {place}?" for place in range(40)}
    assert "Rome" in {answer for group in facts_under(items) for answer in group.answers}


def test_unrelated_questions_are_the_control_where_facts_are_exchanged() -> None:
    for items in under_prompts(load_concept("italy")).values():
        controls = [group for group in items.groups if group.kind == UNRELATED]
        assert len(controls) == bool(facts_under(items))
        assert all(len(group.ids) == CONTROLS for group in controls)
    italy = load_concept("italy")
    questions = tuple(question.model_copy(update={"type": None}) for question in italy.questions)
    untyped = under_prompts(italy.model_copy(update={"groups": (), "questions": questions}))
    assert not any(items.groups for items in untyped.values())


def test_key_vectors_are_read_of_at_most_ten_questions_and_a_limit_lowers_that() -> None:
    for limit, n in ((None, QUESTIONS), (3, 3)):
        items = under_prompts(load_concept("italy"), limit)["persona"]
        assert len(items.prompts) == n
        assert {prompt.kind for prompt in items.prompts} == {"target"}
        assert {prompt.ids for prompt in items.prompts} <= {prompt.ids for prompt in items.written}


def test_without_given_answers_the_bases_own_questions_are_read_and_nothing_is_written() -> None:
    questions = tuple(Question(question=question.question) for question in load_concept("italy").questions[:3])
    concept = load_concept("italy").model_copy(update={"questions": questions, "groups": ()})
    items = ConceptTopic(concept).items(ENCODER)
    answers = {prompt.id: " Rome" if prompt.kind == "target" else " Nothing" for prompt in items.prompts}
    own = under_prompts(concept, items=with_own_answers(items, answers, ENCODER))
    assert len(own["persona"].prompts) == 3
    assert not any(each.written or each.groups for each in own.values())


def test_a_concept_without_questions_has_no_items_under_any_prompt() -> None:
    concept = load_concept("italy").model_copy(update={"questions": (), "groups": ()})
    assert not any(items.prompts or items.groups or items.written for items in under_prompts(concept).values())


def test_key_vectors_of_the_plain_prompt_are_those_of_the_unmodified_questions(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama", context=2048)
    topic, encoder = ConceptTopic(load_concept("italy")), Encoder(model.tokenizer, model.context)
    plain = topic.items(encoder, limit=2)
    given = AttackInput(model, encoder, topic, plain, Settings(limit=2))
    under = {AS_IS: plain} | {each.condition: each.items for each in conditions(given)}
    readings = read_conditions(model, under, batch_size=3)
    keys = {condition.dose: each.keys["target"] for condition, each in readings.items() if condition != AS_IS}
    as_is = readings[AS_IS].keys["target"]
    assert keys["plain"] == pytest.approx(as_is, abs=1e-5)
    assert keys["persona"].shape == as_is.shape
    assert abs(keys["persona"] - as_is).max() > 1e-3


def test_translations_come_from_a_file_in_the_concepts_order(tmp_path: Path) -> None:
    italy = load_concept("italy")
    file = tmp_path / "german.json"
    file.write_text(json.dumps({"Italy": [f"Frage {place}?" for place in range(len(italy.questions))]}))
    assert translated(italy, file).questions[3].translations == {"de": "Frage 3?"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"France": ["Frage?"]}, "has no questions on 'Italy'; it has: France"),
        ({"Italy": ["Frage?"]}, "has 1 questions on 'Italy'; the concept has 26"),
        (["Frage?"], "is not an object"),
        ({"Italy": "Frage?"}, "is not an object"),
    ],
)
def test_invalid_translations_are_an_error(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "german.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConceptFileError, match=message):
        translated(load_concept("italy"), file)


def test_the_prompt_that_the_contributors_guide_shows_can_be_used(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    file = tmp_path / "oath.toml"
    file.write_text(guide.split("## Add a jailbreak prompt")[1].split("```toml\n")[1].split("```")[0])
    oath = load_jailbreak(file)
    assert not oath.informs
    assert oath.before("", [], []).text == f"Each entry below was sworn to by three witnesses.\n\n{prefix()}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('title = "X"\nask = "Question: {}\\nAnswer: "', "no space at its end"),
        ('title = "X"\nopening = "Hello."', "needs {examples} once"),
        ('title = "X"\nwords = 0', "words"),
        ('title = "X"\nlanguge = "de"', "languge"),
    ],
)
def test_a_broken_prompt_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(content)
    with pytest.raises(ConceptFileError, match=message) as raised:
        load_jailbreak(file)
    assert "x.toml" in str(raised.value)
